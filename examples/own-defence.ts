/**
 * A defence of one's own, evaluated as the project's are: noise is added and pixels are rounded before the classifier. Attacks go
 * through it by EOT over the noise and BPDA over the rounding.
 */
import {
  bareSurface,
  type Classifier,
  classify,
  type Defence,
  Device,
  differentiable,
  evaluationConfig,
  kernel,
  kernels,
  linearGrid,
  loadClassifier,
  loadFashionMnist,
  MemoryStore,
  planAttacks,
  purposes,
  randomNormal,
  runEvaluation,
  single,
  type Tensor,
} from 'cmap-webgpu';

// A kernel: bindings and params are read off the source, tensors given by their names, every element of y written.
const rounding = `
struct Params { count: u32, levels: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  y[i] = round(x[i] * params.levels) / params.levels;
}`;

function round(x: Tensor): Tensor {
  const y = x.device.empty(x.shape);
  x.device.run(kernel('own-round', rounding), { x, y }, { count: x.size, levels: 15 }, linearGrid(x.size));
  // BPDA: backward, the rounding is taken for the identity. Without `differentiable` the gradient would be zero.
  return differentiable('own round', [x], y, (dy) => [dy]);
}

/** Host randomness would be drawn once, when the graph is recorded; what a draw gives is new each time. */
function preprocess(x: Tensor, draw: { seed: number; rows: Tensor; step: Tensor | number }): Tensor {
  const noise = randomNormal(x.device, x.shape, { ...draw, purpose: purposes.defence });
  return round(kernels.clamp(kernels.add(x, kernels.affine(noise, 0.05)), 0, 1));
}

export function noisyRounding(classifier: Classifier): Defence {
  const { classes } = classifier;
  return {
    name: 'noisy-rounding',
    classes,
    randomised: true,
    settings: { noise: 0.05, levels: 15 },
    classifier,
    surfaces: {
      classifier: bareSurface(classifier, 'transfer'),
      through: {
        target: {
          classes,
          randomised: true,
          logits: (x, { seed, rows, step }) => classifier.logits(preprocess(x, { seed, rows, step })),
        },
        knowledge: 'adaptive',
        exact: false, // BPDA is not the derivative
        summary: 'through noise and rounding, this taken for the identity backward',
      },
    },
    surface: 'through',
    passes: 1,
    async judge(x, { seed, imageIds }) {
      const rows = x.device.tensor(imageIds, [imageIds.length], 'u32');
      const seen = x.device.scope(() => preprocess(x, { seed, rows, step: 0 }));
      const labels = await classify(classifier, seen);
      for (const tensor of [rows, seen]) tensor.dispose();
      return { votes: single(labels, classes), purified: null };
    },
  };
}

const device = await Device.open();
const classifier = loadClassifier(device, 'fashion-mnist-wrn');
const defence = noisyRounding(classifier.net);
const { images, labels, shape } = loadFashionMnist({ count: 8 });
const [norm, eps] = ['Linf', 16 / 255] as const;
const attacks = planAttacks(
  ['none', 'pgd@classifier', 'pgd', 'square'],
  { norm, eps, steps: 4, restarts: 1, queries: 20, eot: 2 },
  defence,
);
const ids = labels.map((_, i) => i);
const plan = {
  data: { images, shape, labels, ids },
  defence,
  attacks,
  ...{ seed: 0, runs: 1, evaluations: 3, batch: 8, purified: false },
};
const identity = { name: 'fashion-mnist-wrn', sha256: '' };
const config = evaluationConfig(plan, {
  ...{ dataset: 'Fashion-MNIST', classifier: identity, generator: null, norm, eps },
});
// `Store.open(folder, config, resume)` keeps it on disk instead, for `cmap table`, `plot` and `grid`.
export const summary = await runEvaluation(device, plan, new MemoryStore(config));
for (const [name, { robust, interval }] of Object.entries(summary.attacks))
  console.log(
    `own defence: ${name}: ${(100 * robust).toFixed(1)} % [${interval.map((v) => (100 * v).toFixed(0)).join(', ')}]`,
  );

classifier.net.dispose();
export const left = device.memory().tensors;
device.close();
