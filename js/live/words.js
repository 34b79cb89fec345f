// @ts-check
/** What the live view says, in the languages that it speaks. */

const EN = {
  view: "RealCompo live view",
  picture: "Mix of step {step}: median realism share {median}",
  heat: "Attention of {phrase} in the {model} model at step {step}",
  step: "Step",
  at: "{step} / {total}  {phase}",
  follow: "Follow the run",
  attention: "Attention",
  realism: "realism",
  spatial: "spatial",
  off: "off",
  help: "Colours: blue where the spatial model has the say, yellow where the realism model has. "
    + "Dashed: a region. Solid: where its words look, at half their peak. Click a region to see "
    + "its attention alone.",
  regions: "Regions: share of the attention inside, realism and spatial model",
  share: "{phrase}: {realism} in the realism model, {spatial} in the spatial model",
  loss: "Loss: solid realism, dashed spatial",
  noRegions: "No attention is read in this run",
  phases: { spatial: "spatial model", balance: "balanced", mix: "mixed", realism: "realism model" },
};

/** @typedef {typeof EN} Words */

/** @type {Words} */
const ZH = {
  view: "RealCompo 实时视图",
  picture: "第 {step} 步的混合：真实感模型占比的中位数 {median}",
  heat: "第 {step} 步“{phrase}”在{model}模型中的注意力",
  step: "步",
  at: "{step} / {total}  {phase}",
  follow: "跟随运行",
  attention: "注意力",
  realism: "真实感",
  spatial: "空间",
  off: "关",
  help: "颜色：蓝色处由空间模型决定，黄色处由真实感模型决定。虚线：区域。实线：其词语注意之处（峰值的一半）。"
    + "点击一个区域可单独查看它的注意力。",
  regions: "区域：区域内的注意力占比，真实感模型与空间模型",
  share: "{phrase}：真实感模型 {realism}，空间模型 {spatial}",
  loss: "损失：实线为真实感模型，虚线为空间模型",
  noRegions: "本次运行不读取注意力",
  phases: { spatial: "空间模型", balance: "平衡", mix: "混合", realism: "真实感模型" },
};

/** @param {unknown} locale such as ``zh`` or ``zh-TW`` @returns {Words} */
export const wordsFor = (locale) => (/^zh/i.test(String(locale ?? "")) ? ZH : EN);
