// @ts-check
/** What the editor says, in the languages that it speaks. */

const EN = {
  editor: "Layout editor",
  canvas: "Drawing",
  canvasHelp: "Drag to draw a region. Page Up and Page Down choose a region, arrow keys move it, "
    + "Alt and arrow keys resize it, Shift makes larger steps, Enter names it, N makes a new one, "
    + "Delete removes it, Control and Z undoes.",
  arrange: "Arrange: drag in an empty place to draw, on a region to move it (V)",
  draw: "Draw, over other regions too (R)",
  brush: "Paint the chosen region's mask (B)",
  erase: "Erase from the chosen region's mask (E)",
  brushSize: "Brush size",
  undo: "Undo (Ctrl+Z)",
  redo: "Redo (Ctrl+Y)",
  duplicate: "Duplicate (Ctrl+D)",
  remove: "Delete (Del)",
  forward: "Bring forward (])",
  backward: "Send backward ([)",
  copy: "Copy as JSON (Ctrl+C)",
  paste: "Paste (Ctrl+V)",
  snap: "Snap to grid (G)",
  grid: "Grid in pixels",
  picture: "Picture to draw on",
  noPicture: "Remove the picture",
  regions: "Regions",
  colour: "Colour of region {n}",
  phrase: "Phrase of region {n}",
  weight: "Weight of region {n}",
  occurrence: "Which mention of the phrase region {n} means",
  toBox: "Box instead of mask for region {n}",
  mask: "mask",
  described: "Region {n} of {count}, {phrase}, left {x0} %, top {y0} %, right {x1} %, bottom {y1} %",
  chosen: "{count} regions chosen",
  none: "No region chosen",
  empty: "Drag here to draw a region",
  found: "Every phrase stands in the prompt",
  lacking: "Not in the prompt: {lacking} of {count} phrases",
  notInPrompt: "Not in the prompt",
  notSoOften: "The prompt has it {held} times only",
  use: "Use '{words}'",
  unknownPrompt: "The prompt comes by wire: phrases are checked after a run",
  noPrompt: "Type the prompt above, then name regions with its words",
  unchecked: "Phrases are not checked: {why}",
  chooseFirst: "Choose a region to paint",
  wiped: "A mask cannot be empty: what was left is kept",
  adopted: "The connected layout was taken over; undo brings your own regions back",
  pasted: "{count} regions pasted",
  copied: "{count} regions copied",
  nothingToPaste: "The clipboard holds no layout",
  noClipboard: "The browser does not allow reading the clipboard here: press Ctrl+V",
  badPicture: "The picture cannot be shown: {why}",
  startAnew: "Start anew",
};

/** @typedef {typeof EN} Words */

/** @type {Words} */
const ZH = {
  editor: "布局编辑器",
  canvas: "画面",
  canvasHelp: "拖动以绘制区域。PageUp 和 PageDown 选择区域，方向键移动，Alt+方向键调整大小，"
    + "Shift 加大步幅，回车命名，N 新建，Delete 删除，Ctrl+Z 撤销。",
  arrange: "编排：在空白处拖动以绘制，在区域上拖动以移动 (V)",
  draw: "绘制，可覆盖其他区域 (R)",
  brush: "涂抹所选区域的遮罩 (B)",
  erase: "擦除所选区域的遮罩 (E)",
  brushSize: "笔刷大小",
  undo: "撤销 (Ctrl+Z)",
  redo: "重做 (Ctrl+Y)",
  duplicate: "复制一份 (Ctrl+D)",
  remove: "删除 (Del)",
  forward: "上移一层 (])",
  backward: "下移一层 ([)",
  copy: "复制为 JSON (Ctrl+C)",
  paste: "粘贴 (Ctrl+V)",
  snap: "对齐网格 (G)",
  grid: "网格（像素）",
  picture: "背景图片",
  noPicture: "移除图片",
  regions: "区域",
  colour: "区域 {n} 的颜色",
  phrase: "区域 {n} 的短语",
  weight: "区域 {n} 的权重",
  occurrence: "区域 {n} 指短语的第几次出现",
  toBox: "区域 {n} 改用方框而非遮罩",
  mask: "遮罩",
  described: "区域 {n}/{count}，{phrase}，左 {x0} %，上 {y0} %，右 {x1} %，下 {y1} %",
  chosen: "已选 {count} 个区域",
  none: "未选择区域",
  empty: "在此拖动以绘制区域",
  found: "所有短语都在提示词中",
  lacking: "{count} 个短语中有 {lacking} 个不在提示词中",
  notInPrompt: "不在提示词中",
  notSoOften: "提示词中只有 {held} 处",
  use: "改用“{words}”",
  unknownPrompt: "提示词来自连线：运行后再检查短语",
  noPrompt: "请在上方输入提示词，再用其中的词为区域命名",
  unchecked: "未检查短语：{why}",
  chooseFirst: "请先选择要涂抹的区域",
  wiped: "遮罩不能为空：已保留原有内容",
  adopted: "已采用连接的布局；撤销可恢复自己的区域",
  pasted: "已粘贴 {count} 个区域",
  copied: "已复制 {count} 个区域",
  nothingToPaste: "剪贴板中没有布局",
  noClipboard: "浏览器不允许在此读取剪贴板：请按 Ctrl+V",
  badPicture: "无法显示图片：{why}",
  startAnew: "重新开始",
};

/** @param {unknown} locale as the host names it @returns {Words} */
export function wordsFor(locale) {
  return String(locale ?? "").toLowerCase().startsWith("zh") ? ZH : EN;
}

/** @param {string} text @param {Record<string, unknown>} values @returns {string} */
export function say(text, values) {
  return text.replace(/\{(\w+)\}/gu, (_, name) => String(values[name] ?? ""));
}
