/** Gradients accumulated over passes: the update of one batch as large as all of them. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { publishedSigmas } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { convSmall } from '../../src/nets/small-nets.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import type { BatchSource } from '../../src/train/batches.ts';
import { ClassifierRecipe } from '../../src/train/classifier.ts';
import { ConsistencyRecipe } from '../../src/train/consistency.ts';
import { EdmRecipe } from '../../src/train/edm.ts';
import type { Recipe } from '../../src/train/recipe.ts';
import { TrainingStep } from '../../src/train/step.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, lcg, testDevice } from '../support.ts';

const test = suite('gradient accumulation');
const batch = 6;

function images(shape: readonly number[]): BatchSource {
  const random = lcg(5);
  const size = shape.reduce((a, b) => a * b);
  return {
    at: () => ({
      images: Float32Array.from({ length: batch * size }, () => 0.5 + 0.4 * random()),
      labels: Uint32Array.from({ length: batch }, (_, i) => (3 * i) % 10),
    }),
  };
}

interface Made {
  readonly store: ParameterStore;
  readonly recipe: Recipe;
  readonly net?: ClassifierNet;
}

interface Run {
  /** Loss and norm of each update. */
  readonly trace: Float32Array;
  readonly parameters: readonly Float32Array[];
}

/** Some updates, in so many passes each. */
async function trained(make: () => Made, accumulate: number, steps: number): Promise<Run> {
  const { store, recipe, net } = make();
  const step = new TrainingStep(store, recipe, {
    rate: { lr: 0.01, schedule: 'constant', warmup: 0, steps },
    // SGD: Adam would make a full step of a gradient that is nothing but rounding.
    optimiser: { kind: 'sgd', momentum: 0.9 },
    averages: store.averages.map(() => 0.9),
    traceLength: steps,
    accumulate,
  });
  for (let t = 0; t < steps; t++) step.run(t);
  const trace = await step.trace.rows.floats();
  const parameters = await Promise.all([...store.parameters.tensors.values()].map((p) => p.floats()));
  for (const part of [step, recipe, store, net]) part?.dispose();
  return { trace, parameters };
}

async function same(make: () => Made, steps = 3): Promise<void> {
  const device = await testDevice();
  const before = device.memory().tensors;
  const [whole, parts] = [await trained(make, 1, steps), await trained(make, 3, steps)] as const;
  assertClose(parts.trace, whole.trace, 1e-5, 'loss and norm');
  parts.parameters.forEach((p, i) => {
    assertClose(p, whole.parameters[i]!, 1e-5, `parameter ${i}`);
  });
  assert.is(device.memory().tensors, before, 'nothing is left behind');
}

const net = { image_size: 8, num_channels: 1, nf: 8, ch_mult: [1], num_res_blocks: 1, attn_resolutions: [] };
const options = { batch, seed: 3, sigmas: publishedSigmas, dropout: 0.3, logMean: 0, logStd: 1 };

test('a denoiser with noise and dropout', async () => {
  const device = await testDevice();
  await same(() => {
    const unet = ncsnpp(net);
    const store = new ParameterStore(device, unet.parameters, syntheticCheckpoint(unet.parameters));
    return { store, recipe: new EdmRecipe(device, unet, store, images([8, 8, 1]), options) };
  });
});

test('a consistency model', async () => {
  const device = await testDevice();
  await same(() => {
    const unet = ncsnpp(net);
    const store = new ParameterStore(device, unet.parameters, syntheticCheckpoint(unet.parameters));
    const training = {
      ...options,
      ...{ method: 'ect' as const, distance: 'huber' as const, mu0: 0, s0: 2, s1: 20, steps: 3 },
      ...{ q: 4, stageSteps: 10, solver: 'heun' as const },
    };
    const recipe = new ConsistencyRecipe(device, unet, store, images([8, 8, 1]), training, null);
    return { store, recipe };
  });
});

for (const [name, steps, more] of [
  ['mixup', 3, { mixup: 0.5 }],
  // Signed steps make much of a rounding error: after the first update the attacks differ.
  [
    'adversarial images',
    1,
    { adversarial: { method: 'trades' as const, eps: 0.03, steps: 2, stepSize: 0.01 } },
  ],
] as const) {
  test(`a classifier without batch statistics, ${name}`, async () => {
    const device = await testDevice();
    await same(() => {
      const architecture = convSmall();
      const store = new ParameterStore(
        device,
        architecture.parameters,
        syntheticCheckpoint(architecture.parameters),
      );
      const classifier = new ClassifierNet(device, architecture, store.parameters);
      const recipe = new ClassifierRecipe(classifier, store, images([32, 32, 3]), {
        batch,
        seed: 3,
        ...more,
      });
      return { store, recipe, net: classifier };
    }, steps);
  });
}

test('running statistics move with every pass, as PyTorch’s do', async () => {
  const device = await testDevice();
  const architecture = wideResNet({ depth: 10, widen_factor: 1, in_channels: 1, image_size: 8 });
  const of = async (accumulate: number) => {
    const store = new ParameterStore(
      device,
      architecture.parameters,
      syntheticCheckpoint(architecture.parameters),
    );
    const classifier = new ClassifierNet(device, architecture, store.parameters);
    // Each pass sees the same two images.
    const pair = images([8, 8, 1]).at(0).images.subarray(0, 128);
    const count = 2 * accumulate;
    const source: BatchSource = {
      at: () => ({
        images: Float32Array.from({ length: 64 * count }, (_, i) => pair[i % 128]!),
        labels: new Uint32Array(count),
      }),
    };
    const recipe = new ClassifierRecipe(classifier, store, source, { batch: count, seed: 0 });
    const step = new TrainingStep(store, recipe, {
      rate: { lr: 0, schedule: 'constant', warmup: 0, steps: 9 },
      optimiser: { kind: 'sgd' },
      averages: [],
      traceLength: 9,
      accumulate,
    });
    for (let t = 0; t < 3 / accumulate; t++) step.run(t);
    const mean = await store.parameters.get('bn1.running_mean').floats();
    for (const part of [step, recipe, store]) part.dispose();
    return mean;
  };
  assert.equal(await of(3), await of(1), 'one update of three passes, three of one');
});

test.run();
