"""What a user drags: widgets in, one engine call, values out."""
