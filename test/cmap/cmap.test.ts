/** CMAP's loop against a PyTorch loop in float64 from the same latents, and its promises about results. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Distance } from '../../src/cmap/objective.ts';
import { type CmapOptions, checkCmapOptions, paperCifar10 } from '../../src/cmap/options.ts';
import { purify, type TraceEntry } from '../../src/cmap/purify.ts';
import { countVotes } from '../../src/cmap/vote.ts';
import { CmapError, InputError } from '../../src/engine/errors.ts';
import { Program } from '../../src/engine/program.ts';
import { sub } from '../../src/kernels/broadcast.ts';
import { abs } from '../../src/kernels/elementwise.ts';
import { mean } from '../../src/kernels/reduce.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import {
  assertClose,
  type Fixture,
  fromNchw,
  loadFixture,
  parametersOf,
  relativeError,
  testDevice,
  toNchw,
} from '../support.ts';

const test = suite('cmap');

async function setUp(): Promise<{ model: ConsistencyModel; fixture: Fixture; options: CmapOptions }> {
  const device = await testDevice();
  const fixture = loadFixture('nets/cmap-trace');
  const model = ConsistencyModel.load(
    device,
    ncsnpp(JSON.parse(fixture.metadata.config as string)),
    parametersOf(fixture),
  );
  const { k, iterations, lr, alpha, lambda, betas } = JSON.parse(fixture.metadata.options as string);
  return { model, fixture, options: { k, iterations, lr, alpha, lambda, betas, seed: 0 } };
}

test('30 iterations follow PyTorch: trace, latents, images', async () => {
  const { model, fixture, options } = await setUp();
  const { device } = model;
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const latents = device.tensor(...fromNchw(fixture.get('z0')));
  let last = 0;
  const result = await purify(model, x, options, {
    latents,
    onIteration: (done, total) => {
      assert.is(total, 30);
      assert.is(done, last + 1);
      last = done;
    },
  });
  assert.is(last, 30);
  const want = fixture.get('trace');
  const [b, t] = want.shape as [number, number];
  for (let i = 0; i < b; i++) {
    for (let j = 0; j < t; j++) {
      const entry = result.trace[i]![j]!;
      const got = [entry.total, entry.mae, entry.ssim, entry.constraint];
      const reference = want.data.subarray((i * t + j) * 4, (i * t + j) * 4 + 4);
      // The promise is 1e-3; PyTorch's own float32 run stays within 1e-6 of float64.
      got.forEach((value, c) => {
        const error =
          Math.abs(value - (reference[c] as number)) / Math.max(0.1, Math.abs(reference[c] as number));
        assert.ok(error < 1e-4, `image ${i}, iteration ${j}, part ${c}: ${value} against ${reference[c]}`);
      });
    }
  }
  const z = fixture.get('latents');
  assertClose(toNchw(await result.latents.floats(), z.shape), z.data, 2e-4, 'latents');
  const images = fixture.get('images');
  assertClose(toNchw(await result.images.floats(), images.shape), images.data, 2e-4, 'images');
  for (const tensor of [x, latents, result.latents, result.images]) tensor.dispose();
  model.dispose();
});

test('a distance of one’s own takes the place of MAE − α SSIM: MAE by other operations follows alpha = 0', async () => {
  const { model, fixture, options } = await setUp();
  const { device } = model;
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const latents = device.tensor(...fromNchw(fixture.get('z0')));
  const distance: Distance = (g, target) => mean(abs(sub(g, target)), [2, 3, 4]);
  const few = { ...options, iterations: 4 };
  const plain = await purify(model, x, { ...few, alpha: 0 }, { latents });
  // Unused, but traced still.
  const own = await purify(model, x, { ...few, distance }, { latents });
  assertClose(await own.latents.floats(), await plain.latents.floats(), 1e-4, 'latents');
  for (const [i, entries] of own.trace.entries())
    for (const [t, { total, ssim }] of entries.entries()) {
      const want = plain.trace[i]?.[t] as TraceEntry;
      assert.ok(Math.abs(total - want.total) < 1e-4 && Math.abs(ssim - want.ssim) < 1e-4, `${i}, ${t}`);
    }
  await purify(model, x, { ...few, distance: (g, target) => mean(sub(g, target), [1, 2, 3, 4]) }).then(
    () => assert.unreachable(),
    (error) => assert.match(error.message, /distance: gives \[\d+\], wanted \[\d+,\d+\]/),
  );
  for (const tensor of [x, latents, ...[plain, own].flatMap((p) => [p.images, p.latents])]) tensor.dispose();
  model.dispose();
});

test('same seed, same result, bit for bit; whatever the batch, the same image to rounding; another seed differs', async () => {
  const { model, fixture, options } = await setUp();
  const { device } = model;
  const short = { ...options, iterations: 3, seed: 11 };
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const { data, shape } = fixture.get('x');
  const size = data.length / (shape[0] as number);
  const second = device.tensor(...fromNchw({ data: data.slice(size), shape: [1, ...shape.slice(1)] }));
  const run = async (images: typeof x, o: CmapOptions, imageIds?: number[]) => {
    const { images: out, latents, trace } = await purify(model, images, o, { imageIds });
    const values = await latents.floats();
    out.dispose();
    latents.dispose();
    return { values, trace };
  };
  const a = await run(x, short);
  const b = await run(x, short);
  assert.equal(a, b);
  const alone = await run(second, short, [1]);
  assert.ok(
    relativeError(alone.values, a.values.slice(a.values.length / 2)) < 1e-6,
    'the second image alone',
  );
  const other = await run(x, { ...short, seed: 12 });
  assert.ok(relativeError(other.values, a.values) > 0.1);
  x.dispose();
  second.dispose();
  model.dispose();
});

test('nothing is left behind', async () => {
  const { model, fixture, options } = await setUp();
  const { device } = model;
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const once = async () => {
    const { images, latents } = await purify(model, x, { ...options, iterations: 2 });
    images.dispose();
    latents.dispose();
  };
  await once();
  const before = device.memory();
  await once();
  const after = device.memory();
  assert.is(after.liveBytes, before.liveBytes);
  assert.is(after.tensors, before.tensors);
  assert.is(after.buffersCreated, before.buffersCreated);
  x.dispose();
  model.dispose();
});

test('a network called by itself leaves its result alone', async () => {
  const { model } = await setUp();
  const { device } = model;
  const z = device.full([2, ...model.imageShape], 1);
  model.prepare(model.sigmas.max);
  const before = device.memory();
  model.generate(z).dispose();
  assert.is(device.memory().tensors, before.tensors);
  assert.is(device.memory().liveBytes, before.liveBytes);
  // A sampler may ask at any number of levels.
  for (let i = 1; i <= 70; i++) model.prepare(i);
  const many = device.memory().tensors;
  for (let i = 71; i <= 140; i++) model.prepare(i);
  assert.is(device.memory().tensors, many);
  z.dispose();
});

test('a loss that is no number any more is named, with the image and the iteration', async () => {
  const { model, fixture, options } = await setUp();
  const x = model.device.tensor(...fromNchw(fixture.get('x')));
  model.prepare(model.sigmas.max);
  const before = model.device.memory().tensors;
  const far = { ...options, lr: 1e30, iterations: 4 };
  const error = await purify(model, x, far, { imageIds: [70, 71, 72].slice(0, x.shape[0]) }).then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(error instanceof CmapError);
  assert.match(
    error.message,
    /^purify: image 70 diverged: \w+ is (NaN|-?Infinity) at iteration [234] of 4; take a smaller lr \(1e\+30\)/,
  );
  assert.is(model.device.memory().tensors, before);
  x.dispose();
  model.dispose();
});

test('iterations that the device never ran are no result', async () => {
  const { model, fixture, options } = await setUp();
  const x = model.device.tensor(...fromNchw(fixture.get('x')));
  const { run } = Program.prototype;
  let runs = 0;
  Program.prototype.run = function (this: Program<unknown>, times?: number) {
    // As where a watchdog ends a submission, and the driver takes it for done.
    return ++runs === 3 ? this.outputs : run.call(this, times);
  } as typeof run;
  let message = '';
  try {
    await purify(model, x, { ...options, iterations: 5 });
  } catch (error) {
    message = (error as Error).message;
  } finally {
    Program.prototype.run = run;
  }
  assert.match(message, /the device ran 4 of 5 iterations/);
});

test('images that are not in [0, 1] are refused before anything runs', async () => {
  const { model, fixture, options } = await setUp();
  const { data, shape } = fixture.get('x');
  for (const [scale, pattern] of [
    [255, /purify: image 0 holds \d+.*; pixels must be in \[0, 1\]/],
    [Number.NaN, /purify: image 0 holds NaN/],
  ] as const) {
    const x = model.device.tensor(...fromNchw({ data: data.map((v) => v * scale), shape }));
    const error = await purify(model, x, options).then(
      () => null,
      (e: Error) => e,
    );
    assert.match(error?.message ?? '', pattern);
  }
  const none = model.device.zeros([0, ...model.imageShape]);
  const error = await purify(model, none, options).then(
    () => null,
    (e: Error) => e,
  );
  assert.match(error?.message ?? '', /wanted \[B,H,W,C\] of at least one image/);
});

test('options out of range are named with value and range', () => {
  const refuses = (change: Partial<CmapOptions>, pattern: RegExp) =>
    assert.throws(
      () => checkCmapOptions({ ...paperCifar10, ...change }),
      (error: unknown) => error instanceof InputError && pattern.test(error.message),
    );
  refuses({ k: 0 }, /^k must be an integer of at least 2 .*, got 0$/);
  refuses({ k: 2.5 }, /got 2.5$/);
  refuses({ iterations: 0 }, /^iterations must be a positive integer to 1000000, got 0$/);
  refuses({ iterations: 1e7 }, /^iterations must be a positive integer to 1000000, got 10000000$/);
  refuses({ lr: -1 }, /^lr must be a positive number of f32, got -1$/);
  refuses({ lr: 1e39 }, /^lr must be a positive number of f32, got 1e\+39$/);
  refuses({ alpha: Number.NaN }, /^alpha must be a number of f32 of at least 0, got NaN$/);
  refuses({ lambda: -5e-4 }, /^lambda/);
  refuses({ seed: -1 }, /^seed/);
});

test('the vote: most counts win, the lowest class wins a tie', () => {
  assert.equal(countVotes([2, 1, 1, 0], 3), { label: 1, votes: [1, 2, 1] });
  assert.equal(countVotes([2, 2, 1, 1], 3), { label: 1, votes: [0, 2, 2] });
});

test.run();
