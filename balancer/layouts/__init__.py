"""What shall stand where: layouts, and layouts from boxes, masks, poses, segmentations."""
