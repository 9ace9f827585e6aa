/** Consistency disruption (Eq. 15) against PyTorch in float64: test/fixtures/attacks/make_disruption.py. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Disruption, type DisruptionOptions } from '../../src/attacks/disruption.ts';
import { InputError } from '../../src/engine/errors.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, fromNchw, loadFixture, relativeError, testDevice, toNchw } from '../support.ts';

async function setUp() {
  const device = await testDevice();
  const fixture = loadFixture('attacks/disruption');
  const unet = ncsnpp(JSON.parse(fixture.metadata.net as string));
  const architecture = wideResNet(JSON.parse(fixture.metadata.classifier as string));
  const model = ConsistencyModel.load(device, unet, syntheticCheckpoint(unet.parameters));
  const net = ClassifierNet.load(device, architecture, syntheticCheckpoint(architecture.parameters));
  const cmap = { ...JSON.parse(fixture.metadata.cmap as string), seed: 3 };
  const steps = Number(fixture.metadata.steps);
  const settings = JSON.parse(fixture.metadata.settings as string) as Record<string, [number, number]>;
  const x = device.tensor(...fromNchw(fixture.get('x')));
  const latents = device.tensor(...fromNchw(fixture.get('z0')));
  return { fixture, model, net, cmap, steps, settings, x, latents, labels: [...fixture.get('labels').data] };
}

for (const norm of ['Linf', 'L2'] as const) {
  test(`${norm}: PyTorch’s candidates, within the ball, of higher loss`, async () => {
    const { fixture, model, net, cmap, steps, settings, x, latents, labels } = await setUp();
    const [eps, tau] = settings[norm] as [number, number];
    const attack = new Disruption(model, net, { norm, eps, cmap, steps, tau, latents });
    const result = await attack.run(net, x, labels);
    const want = fixture.get(`candidates.${norm}`);
    // 5 steps of Adam on a kinked loss in float32.
    assertClose(toNchw(await result.candidates.floats(), want.shape), want.data, 2e-3, 'candidates');
    const losses = fixture.get(`loss.${norm}`).data;
    result.loss.forEach((loss, i) => {
      const best = Math.max(...losses.slice(3 * i, 3 * i + 3));
      assert.ok(Math.abs(loss - best) < 2e-2 * best, `loss ${loss}, PyTorch ${best}`);
    });
    const [clean, moved] = await Promise.all([x.floats(), result.adversarial.floats()]);
    const size = clean.length / labels.length;
    labels.forEach((_, i) => {
      const delta = Array.from({ length: size }, (_, j) => moved[i * size + j]! - clean[i * size + j]!);
      const length = norm === 'Linf' ? Math.max(...delta.map(Math.abs)) : Math.hypot(...delta);
      assert.ok(length <= eps + 1e-7, `‖δ‖ ${length} > ${eps}`);
    });
    assert.ok(moved.every((v) => v >= 0 && v <= 1));
    for (const t of [result.candidates, result.adversarial]) t.dispose();
  });
}

for (const norm of ['Linf', 'L2'] as const) {
  test(`${norm}: the released form, PyTorch’s candidates`, async () => {
    const { fixture, model, net, cmap, steps, settings, x, latents, labels } = await setUp();
    const [eps, tau] = settings[norm] as [number, number];
    const options = { norm, eps, cmap, steps, tau, latents, form: 'released' } as const;
    const result = await new Disruption(model, net, options).run(net, x, labels);
    const want = fixture.get(`released.${norm}`);
    const got = toNchw(await result.candidates.floats(), want.shape);
    assertClose(got, want.data, 2e-3, 'candidates');
    const [own, other] = [got, fixture.get(`candidates.${norm}`).data].map((v) =>
      relativeError(v, want.data),
    );
    assert.ok(
      (other as number) > 2 * (own as number),
      `the equation is at ${other}, the released form at ${own}`,
    );
    for (const t of [result.candidates, result.adversarial]) t.dispose();
  });
}

test('the released form of one image has no class term, and is refused', async () => {
  const { model, net, cmap, x, labels } = await setUp();
  const attack = new Disruption(model, net, {
    norm: 'Linf',
    eps: 0.1,
    cmap,
    steps: 9,
    tau: 1,
    form: 'released',
  });
  let message = '';
  await attack.run(net, x, labels, { batch: 1 }).catch((error: Error) => {
    message = error.message;
  });
  assert.match(message, /whole batches of at least 2, and 2 images are in batches of 1; give a --batch/);
});

test('target-latent: the generator’s own image is misclassified, which the plain defence’s is not', async () => {
  const { model, net, cmap, x, latents, labels } = await setUp();
  const hits = async (form: 'equation' | 'latent', tau: number) => {
    const options = { norm: 'Linf', eps: 0.3, cmap, steps: 30, tau, latents, form } as const;
    const result = await new Disruption(model, net, options).run(net, x, labels);
    for (const t of [result.candidates, result.adversarial]) t.dispose();
    return result.trace.flatMap((trace) => trace.hit).reduce((a, b) => a + b, 0);
  };
  const [plain, wanted] = [await hits('equation', 1e-9), await hits('latent', 1e4)];
  assert.ok(
    wanted > plain,
    `candidates fool the classifier ${wanted} times, ${plain} without the class term`,
  );
});

test('the defence chooses among the candidates, where it is asked', async () => {
  const { model, net, cmap, x, labels } = await setUp();
  const options: DisruptionOptions = { norm: 'Linf', eps: 0.05, cmap, steps: 6, tau: 100 };
  const rounds: number[] = [];
  // Of image 0 the last candidate is the worst, of image 1 the first.
  const judge = async (
    at: { shape: readonly number[] },
    _: readonly number[],
    ids: readonly number[],
    round: number,
  ) => {
    rounds.push(round);
    assert.is(at.shape[0], ids.length);
    return ids.map((id) => (id === 70 ? round / cmap.k : 1 - (round + 1) / cmap.k));
  };
  const hooks = { imageIds: [70, 71] };
  const result = await new Disruption(model, net, { ...options, judge }).run(net, x, labels, hooks);
  const [all, chosen] = await Promise.all([result.candidates.floats(), result.adversarial.floats()]);
  const size = chosen.length / 2;
  const candidate = (i: number, j: number) => all.slice((i * cmap.k + j) * size, (i * cmap.k + j + 1) * size);
  assert.equal(chosen.slice(0, size), candidate(0, cmap.k - 1));
  assert.equal(chosen.slice(size), candidate(1, 0));
  assert.equal(
    rounds,
    Array.from({ length: cmap.k }, (_, j) => j),
  );
  assert.equal(result.success, [(cmap.k - 1) / cmap.k >= 0.5, 1 - 1 / cmap.k >= 0.5]);
  // Three iterations of the attack after the defence's three, and the answer.
  for (const { loss, hit } of result.trace) {
    assert.is(loss.length, options.steps - cmap.iterations + 1);
    assert.ok(loss.every(Number.isFinite) && hit.every((h) => h >= 0 && h <= 1));
  }
  for (const t of [result.candidates, result.adversarial]) t.dispose();
});

test('results do not depend on the batch', async () => {
  const { model, net, cmap, x, labels } = await setUp();
  const options: DisruptionOptions = { norm: 'Linf', eps: 0.05, cmap, steps: 5, tau: 100 };
  const run = async (batch: number) => {
    const { adversarial, candidates } = await new Disruption(model, net, options).run(net, x, labels, {
      batch,
    });
    candidates.dispose();
    return adversarial.floats();
  };
  assertClose(await run(1), await run(2), 1e-4, 'adversarial');
});

test('mistakes are named', async () => {
  const { model, net, cmap } = await setUp();
  const good = { norm: 'Linf', eps: 0.05, cmap, steps: 10, tau: 1 } as const;
  const refuses = (change: Partial<DisruptionOptions>, pattern: RegExp) =>
    assert.throws(
      () => new Disruption(model, net, { ...good, ...change }),
      (e: Error) => e instanceof InputError && pattern.test(e.message),
    );
  refuses({ steps: 3 }, /3 steps in all leave none after the 3 of the defence/);
  refuses({ tau: 0 }, /tau must be a positive number, got 0/);
  refuses({ eps: 8 }, /did you mean 8\/255/);
});

test.run();
