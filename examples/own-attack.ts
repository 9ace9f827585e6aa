/** An attack with a loss of one's own, on a variant of CMAP: its images are aligned by L2 in place of MAE and SSIM. */
import {
  cmapDefence,
  Device,
  kernels,
  type Loss,
  loadClassifier,
  loadConsistencyModel,
  loadFashionMnist,
  loadPreset,
  Pgd,
  planAttacks,
  registerAttack,
  type Tensor,
} from 'cmap-webgpu';

/** Made large: how far the true class's logit lies below the mean of all. Of differentiable operations. */
const belowMean: Loss = (logits, labels) => {
  // mean z − z_y = mean log p − log p_y
  const ofAll = kernels.mean(kernels.logSoftmax(logits), [1]);
  return kernels.add(ofAll, kernels.crossEntropy(logits, labels));
};

// From now on evaluations can name it; `cmap eval` knows the project's own alone.
registerAttack('below-mean', {
  summary: 'PGD on the mean logit less that of the true class',
  kind: 'iterative',
  options: ['steps'],
  make: ({ norm, eps, steps, seed }) =>
    new Pgd({
      ...{ norm, eps, steps, stepSize: (2.5 * eps) / steps, randomStart: true, seed },
      ...{ keep: 'best', loss: belowMean },
    }),
  passes: ({ steps }) => 2 * (steps + 1),
});

/** g [B, K, H, W, C] and target [B, 1, H, W, C] in [-1, 1] -> [B, K]; the defence and the attacks through it minimise it. */
function l2(g: Tensor, target: Tensor): Tensor {
  return kernels.mean(kernels.square(kernels.sub(g, target)), [2, 3, 4]);
}

const device = await Device.open();
const model = loadConsistencyModel(device, 'fashion-mnist-consistency');
const classifier = loadClassifier(device, 'fashion-mnist-wrn');
const { cmap, eps } = loadPreset('fashion-mnist');
const defence = cmapDefence(model.net, classifier.net, { ...cmap, k: 2, iterations: 10, distance: l2 });

const { images, labels, shape } = loadFashionMnist({ count: 2 });
const x = device.tensor(images, shape);
const settings = { norm: 'Linf', eps, steps: 2, restarts: 1, queries: 1, eot: 1 } as const;
// Through every Adam step of four iterations; `below-mean` alone takes the defence's default surface, the bare classifier.
const names = ['below-mean', 'below-mean@unroll-short:iterations=4'];
export const broken: Record<string, boolean[]> = {};
for (const { id, make, on } of planAttacks(names, settings, defence)) {
  const attack = make(0, [0]);
  if (!attack || !on) continue;
  const { adversarial } = await attack.run(on.target, x, labels);
  // The whole defence decides.
  const { votes, purified } = await defence.judge(adversarial, { seed: 0, imageIds: [0, 1] });
  broken[id] = votes.map(({ label }, i) => label !== labels[i]);
  console.log(`own attack: ${id} breaks ${broken[id].filter(Boolean).length} of ${labels.length} images`);
  for (const tensor of [adversarial, purified]) tensor?.dispose();
}

defence.dispose?.();
for (const network of [model.net, classifier.net]) network.dispose();
x.dispose();
export const left = device.memory().tensors;
device.close();
