/**
 * Gradients through the defence: against PyTorch's double backward in float64 (test/fixtures/attacks/make_unroll.py),
 * against finite differences of the loop itself, and as a target of PGD.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { streams } from '../../src/attacks/attack.ts';
import { Pgd } from '../../src/attacks/pgd.ts';
import { consistencyStep, publishedAttackSigma, surrogate } from '../../src/attacks/surrogate.ts';
import type { Draw, Target } from '../../src/attacks/target.ts';
import { combineVotes, ThroughCmap, type ThroughCmapOptions } from '../../src/attacks/through-cmap.ts';
import type { Distance } from '../../src/cmap/objective.ts';
import type { CmapOptions } from '../../src/cmap/options.ts';
import { cmapDefence } from '../../src/defences/cmap.ts';
import { vjp } from '../../src/engine/autograd.ts';
import { InputError } from '../../src/engine/errors.ts';
import { randomNormal } from '../../src/engine/random.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { planAttacks, splitAttacks } from '../../src/eval/attacks.ts';
import { type EvaluationPreset, evaluationPresets } from '../../src/eval/presets.ts';
import { evaluationConfig, runEvaluation } from '../../src/eval/run.ts';
import { MemoryStore } from '../../src/eval/store.ts';
import { sub } from '../../src/kernels/broadcast.ts';
import { affine, sqrt, square } from '../../src/kernels/elementwise.ts';
import { mean } from '../../src/kernels/reduce.ts';
import { reshape } from '../../src/kernels/shape.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { configOf } from '../eval/synthetic.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, fromNchw, lcg, loadFixture, relativeError, testDevice, toNchw } from '../support.ts';

async function setUp() {
  const device = await testDevice();
  const fixture = loadFixture('attacks/unroll');
  const unet = ncsnpp(JSON.parse(fixture.metadata.net as string));
  const architecture = wideResNet(JSON.parse(fixture.metadata.classifier as string));
  const model = ConsistencyModel.load(device, unet, syntheticCheckpoint(unet.parameters));
  const net = ClassifierNet.load(device, architecture, syntheticCheckpoint(architecture.parameters));
  const options = JSON.parse(fixture.metadata.options as string);
  const cmap = { ...options, seed: 0 } as CmapOptions;
  const tensor = (name: string) => device.tensor(...fromNchw(fixture.get(name)));
  const x = tensor('x');
  const latents = tensor('z0');
  const { data, shape } = fixture.get('cotangent');
  const cotangent = device.tensor(data, shape);
  const draw: Draw = { seed: 0, rows: device.tensor([0, 1], [2], 'u32'), step: device.zeros([1], 'u32') };
  const huber = options.huber as number;
  return { device, fixture, model, net, cmap, x, latents, cotangent, draw, huber };
}

async function gradient(
  target: ThroughCmap,
  x: Tensor,
  cotangent: Tensor,
  draw: Draw,
): Promise<{ logits: Float32Array; dx: Float32Array }> {
  const process = await target.process(x, draw);
  const logits = await process.logits.floats();
  const dx = await process.pullback(cotangent);
  const host = await dx.floats();
  dx.dispose();
  process.dispose();
  return { logits, dx: host };
}

test('unrolled: PyTorch’s gradient through every Adam step, and with a frozen preconditioner', async () => {
  const { fixture, model, net, cmap, x, latents, cotangent, draw, huber } = await setUp();
  const shape = fixture.get('x').shape;
  for (const [name, preconditioner] of [
    ['dx', 'exact'],
    ['dx.frozen', 'frozen'],
  ] as const) {
    const unroll = { smoothing: { huber }, smoothForward: true, preconditioner };
    const target = new ThroughCmap(model, net, { cmap, backward: 'unroll', latents, unroll });
    const { logits, dx } = await gradient(target, x, cotangent, draw);
    assertClose(logits, fixture.get('logits').data, 1e-4, 'logits');
    // Central differences in float32: about three digits (measured 1.1e-3 and 1.9e-3).
    assertClose(toNchw(dx, shape), fixture.get(name).data, 6e-3, name);
    target.dispose();
  }
});

test('a variant’s own distance is differentiated through, too', async () => {
  const { model, net, cmap, x, latents, cotangent, draw, huber } = await setUp();
  const unroll = { smoothing: { huber }, smoothForward: true };
  const through = async (own: Partial<CmapOptions>) => {
    const few = { ...cmap, iterations: 2, ...own };
    const target = new ThroughCmap(model, net, { cmap: few, backward: 'unroll', latents, unroll });
    const found = await gradient(target, x, cotangent, draw);
    target.dispose();
    return found;
  };
  // The pseudo-Huber norm that alpha = 0 leaves, by other operations.
  const distance: Distance = (g, target) =>
    mean(affine(sqrt(affine(square(sub(g, target)), 1, huber ** 2)), 1, -huber), [2, 3, 4]);
  const plain = await through({ alpha: 0 });
  const own = await through({ distance });
  assertClose(own.logits, plain.logits, 1e-4, 'logits');
  assertClose(own.dx, plain.dx, 6e-3, 'dx');
});

test('a process that another one has overtaken is refused, not pulled back through its latents', async () => {
  const { device, model, net, cmap, x, cotangent, draw } = await setUp();
  const target = new ThroughCmap(model, net, { cmap: { ...cmap, iterations: 9 }, backward: 'identity' });
  const other = { ...draw, step: device.tensor([1], [1], 'u32') };
  const refused = async (f: () => Promise<unknown>) => {
    try {
      await f();
    } catch (error) {
      return /one after the other/.test((error as Error).message);
    }
    return false;
  };
  const first = await target.process(x, draw);
  const second = await target.process(x, other);
  assert.ok(await refused(() => first.pullback(cotangent)));
  (await second.pullback(cotangent)).dispose();
  assert.ok(await refused(() => Promise.all([target.process(x, draw), target.process(x, other)])));
  for (const process of [first, second]) process.dispose();
  target.dispose();
});

test('an evaluation leaves nothing of the candidates of an attack on the device', async () => {
  const { device, model, net, cmap, x } = await setUp();
  const defence = cmapDefence(model, net, { ...cmap, iterations: 2 });
  const shape = x.shape as [number, number, number, number];
  const data = { images: await x.floats(), shape, labels: [0, 1], ids: [0, 1] };
  const settings = { norm: 'Linf', eps: 0.1, steps: 2, restarts: 1, queries: 1, eot: 1 } as const;
  const attacks = planAttacks(['disruption', 'target-latent'], settings, defence);
  const plan = { data, defence, attacks, seed: 0, runs: 1, evaluations: 1, batch: 2, purified: true };
  const { classifier, generator, dataset } = configOf([0, 1], {});
  const config = evaluationConfig(plan, { classifier, generator, dataset, norm: 'Linf', eps: 0.1 });
  const before = device.memory().tensors;
  await runEvaluation(device, plan, new MemoryStore(config));
  assert.is(device.memory().tensors, before);
  defence.dispose?.();
});

test('unrolled: finite differences of the loop along a random direction', async () => {
  const { device, model, net, cmap, x, latents, cotangent, draw, huber } = await setUp();
  const unroll = { smoothing: { huber }, smoothForward: true };
  const short = { ...cmap, iterations: 4, lr: 0.5 };
  const target = new ThroughCmap(model, net, { cmap: short, backward: 'unroll', latents, unroll });
  const { dx } = await gradient(target, x, cotangent, draw);
  const base = await x.floats();
  const weights = await cotangent.floats();
  const random = lcg(3);
  // Along the gradient and a random part, so that the derivative is not small against the noise.
  const norm = Math.hypot(...dx) / Math.sqrt(dx.length);
  const direction = dx.map((v) => v / norm + random());
  const value = async (h: number) => {
    const at = device.tensor(
      base.map((v, i) => v + h * (direction[i] as number)),
      x.shape,
    );
    const process = await target.process(at, draw);
    const logits = await process.logits.floats();
    process.dispose();
    at.dispose();
    return logits.reduce((sum, v, i) => sum + v * (weights[i] as number), 0);
  };
  const exact = dx.reduce((sum, v, i) => sum + v * (direction[i] as number), 0);
  // Large steps cross kinks of the clip, small ones drown in rounding: one of them must agree.
  const ratios: number[] = [];
  for (const h of [1e-3, 3e-4, 1e-4, 3e-5])
    ratios.push(((await value(h)) - (await value(-h))) / (2 * h) / exact);
  const best = Math.min(...ratios.map((ratio) => Math.abs(ratio - 1)));
  assert.ok(best < 0.05, `differences over gradient: ${ratios}`);
  target.dispose();
});

test('identity (BPDA): PyTorch’s gradient with dG/dx = 1', async () => {
  const { fixture, model, net, cmap, x, latents, cotangent, draw } = await setUp();
  const target = new ThroughCmap(model, net, { cmap, backward: 'identity', latents });
  const { logits, dx } = await gradient(target, x, cotangent, draw);
  assertClose(logits, fixture.get('logits.identity').data, 1e-4, 'logits');
  assertClose(toNchw(dx, fixture.get('x').shape), fixture.get('dx.identity').data, 1e-3, 'dx');
  target.dispose();
});

test('surrogate (BPDA): the identity’s cotangent pulled back through one consistency step', async () => {
  const { device, model, net, cmap, x, latents, cotangent, draw } = await setUp();
  const sigma = 0.5;
  const of = async (backward: 'identity' | 'surrogate') => {
    const target = new ThroughCmap(model, net, { cmap, backward, sigma, latents });
    const found = await gradient(target, x, cotangent, draw);
    target.dispose();
    return found;
  };
  const [identity, own] = [await of('identity'), await of('surrogate')];
  assert.equal(own.logits, identity.logits, 'the same forward pass');
  const want = device.scope(() => {
    const n = randomNormal(device, x.shape, { ...draw, purpose: streams.surrogate });
    const { pullback } = vjp((u) => consistencyStep(model, u, n, sigma), [x]);
    return pullback(device.tensor(identity.dx, x.shape))[0] as Tensor;
  });
  assertClose(own.dx, await want.floats(), 1e-5, 'dx');
  assert.ok(relativeError(own.dx, identity.dx) > 0.1, 'and not the identity');
});

test('votes: mean logits, mean probabilities, soft votes, and the easiest majority', async () => {
  const device = await testDevice();
  const [b, k, classes] = [2, 4, 3];
  const random = lcg(5);
  const host = Float32Array.from({ length: b * k * classes }, () => 4 * random() - 2);
  const labels = [0, 2];
  const own = device.tensor(labels, [b], 'u32');
  const logits = device.tensor(host, [b * k, classes]);
  const got = async (options: Pick<ThroughCmapOptions, 'votes' | 'temperature'>) => {
    const out = device.scope(() => combineVotes(logits, b, k, options, own));
    return [...(await out.floats())];
  };
  const rows = (i: number) =>
    Array.from({ length: k }, (_, j) => [...host.subarray((i * k + j) * classes, (i * k + j + 1) * classes)]);
  const softmax = (z: number[], t: number) => {
    const e = z.map((v) => Math.exp(v / t));
    return e.map((v) => v / e.reduce((p, q) => p + q, 0));
  };
  const average = (list: number[][]) =>
    Array.from(
      { length: classes },
      (_, c) => list.reduce((sum, p) => sum + (p[c] as number), 0) / list.length,
    );
  const want = (f: (z: number[][], label: number) => number[]) =>
    labels.flatMap((label, i) => f(rows(i), label));
  const close = (a: number[], e: number[], name: string) => assertClose(a, Float32Array.from(e), 1e-5, name);
  close(await got({ votes: 'logits' }), want(average), 'logits');
  for (const temperature of [1, 0.05])
    close(
      await got({ temperature }),
      want((z) => average(z.map((row) => softmax(row, temperature))).map((p) => Math.log(p + 1e-12))),
      `probabilities at ${temperature}`,
    );
  // Three of the four are a majority: the one that is surest of the true class is left alone.
  close(
    await got({ votes: 'easiest' }),
    want((z, label) =>
      average(
        z
          .map((row) => softmax(row, 1))
          .sort((p, q) => (p[label] as number) - (q[label] as number))
          .slice(0, 3),
      ).map((p) => Math.log(p + 1e-12)),
    ),
    'easiest',
  );
});

test('with the seeds of the judgements the attack sees what they will see', async () => {
  const { device, model, net, cmap, x } = await setUp();
  const defence = cmapDefence(model, net, { ...cmap, iterations: 3 });
  const seeds = [2 ** 40 + 7, 2 ** 40 + 8];
  const imageIds = [4, 9];
  const target = defence.surfaces.bpda?.with?.({ votes: 'logits' }).target as ThroughCmap;
  const ids = device.tensor(imageIds, [2], 'u32');
  const draw = (seed: number, known: boolean): Draw => ({
    ...{ seed, rows: ids, step: device.tensor([3], [1], 'u32') },
    ...(known ? { known } : {}),
  });
  const logits = async (seed: number, known: boolean) => {
    const process = await target.process(x, draw(seed, known));
    const host = await process.logits.floats();
    process.dispose();
    return host;
  };
  // The mean of the logits of the very images that the judgement classified.
  const judged = await defence.judge(x, { seed: seeds[0] as number, imageIds });
  const [n, k, ...image] = (judged.purified as Tensor).shape as [number, number, number, number, number];
  const want = device.scope(() =>
    mean(
      reshape(net.logits(reshape(judged.purified as Tensor, [n * k, ...image])), [n, k, net.classes]),
      [1],
    ),
  );
  assertClose(await logits(seeds[0] as number, true), await want.floats(), 1e-4, 'known');
  assert.ok(relativeError(await logits(seeds[0] as number, false), await want.floats()) > 1e-2, 'unknown');
  assert.ok(
    relativeError(await logits(seeds[1] as number, true), await want.floats()) > 1e-2,
    'another seed',
  );
  target.dispose();
  // Through a Query: a fixed list of seeds gives the same answer at every pass.
  const eot = { draws: 2, randomness: { seeds } } as const;
  const attack = new Pgd({ eps: 0.01, steps: 1, stepSize: 1e-9, randomStart: false, seed: 0, eot });
  const { trace, adversarial } = await attack.run(defence.surfaces.bpda?.target as Target, x, [1, 2], {
    imageIds,
  });
  adversarial.dispose();
  for (const { loss } of trace)
    assert.ok(Math.abs((loss[0] as number) - (loss[1] as number)) < 1e-3, `the same draws: ${loss}`);
  const graph = new Pgd({ eps: 0.01, steps: 1, stepSize: 0.01, randomStart: false, seed: 0, eot });
  try {
    await graph.run(net, x, [1, 2]);
    assert.unreachable();
  } catch (error) {
    assert.match((error as Error).message, /known seeds are for a target that runs the defence itself/);
  }
});

test('a judgement’s last look is its vote, classified once', async () => {
  const { model, net, cmap, x } = await setUp();
  let asked = 0;
  const logits = (u: Tensor) => {
    asked++;
    return net.logits(u);
  };
  const counting = { classes: net.classes, logits };
  const defence = cmapDefence(model, counting, { ...cmap, iterations: 5 });
  for (const [looks, iterations] of [
    [3, [2, 4, 5]],
    [5, [1, 2, 3, 4, 5]],
  ] as const) {
    asked = 0;
    const judged = await defence.judge(x, { seed: 0, imageIds: [0, 1], looks });
    judged.purified?.dispose();
    assert.is(asked, iterations.length);
    for (const { looks: seen, labels } of judged.purification ?? []) {
      assert.equal(
        seen.map((look) => look.iteration),
        iterations,
      );
      assert.equal(seen.at(-1)?.labels, labels);
    }
  }
});

test('the preset of the paper’s scripts fits the defence; disruption counts iterations in all', async () => {
  const { model, net, cmap } = await setUp();
  const defence = cmapDefence(model, net, cmap);
  const { attacks, ...preset } = evaluationPresets.paper as EvaluationPreset;
  const settings = { ...preset, norm: 'Linf', eps: 8 / 255 } as const;
  const planned = planAttacks(splitAttacks(attacks.cmap as string), settings, defence);
  assert.equal(
    planned.map(({ id }) => id),
    [
      'none',
      'pgd@surrogate',
      'pgd@surrogate:backward=identity',
      'autoattack@surrogate',
      'disruption:iterations=1000',
    ],
  );
  const [, pgd, , , disruption] = planned;
  assert.equal(
    [pgd?.settings.keep, pgd?.settings.stepSize, pgd?.settings.eot, pgd?.settings.start],
    ['last', 8 / 255 / 200, 20, 'image'],
  );
  assert.is(disruption?.settings.steps, 1000 - cmap.iterations);
  assert.throws(
    () => planAttacks(['disruption:iterations=1000:steps=5'], settings, defence),
    (e: Error) => e instanceof InputError && /1000 iterations are not 5 steps after/.test(e.message),
  );
});

test('options of surfaces', async () => {
  const { model, net, cmap } = await setUp();
  const { surfaces } = cmapDefence(model, net, cmap);
  const refused = (surface: string, texts: Record<string, string>, pattern: RegExp) =>
    assert.throws(
      () => surfaces[surface]?.with?.(texts),
      (e: Error) => e instanceof InputError && pattern.test(e.message),
    );
  refused('bpda', { last: '3' }, /surface bpda has no option "last"; it has k, iterations/);
  refused('unroll', { backward: 'identity' }, /surface unroll has no option "backward"/);
  refused('unroll', { huber: '-1' }, /surface unroll: huber must be a positive number, got "-1"/);
  refused('bpda', { k: '1' }, /k must be an integer of at least 2/);
  refused('surrogate', { sigma: '0' }, /surface surrogate: sigma must be a positive number, got "0"/);
  const bpda = surfaces.surrogate?.with?.({ backward: 'identity' });
  assert.equal(bpda?.settings, { sigma: publishedAttackSigma, backward: 'identity' });
  assert.equal([surfaces.surrogate?.exact, bpda?.exact], [true, false]);
  const own = surfaces.unroll?.with?.({ k: '2', last: '2', huber: '0', clip: 'exact', votes: 'easiest' });
  assert.equal(own?.settings, {
    ...{
      k: 2,
      votes: 'easiest',
      temperature: 1,
      warm: 'no',
      preconditioner: 'exact',
      huber: 0,
      clip: 'exact',
    },
    ...{ iterations: cmap.iterations, last: 2 },
  });
  assert.is(own?.cost, 2 * (cmap.iterations + 2 * 2));
});

test('a shorter horizon and a truncated unroll give other gradients; a warm start goes on', async () => {
  const { model, net, cmap, x, cotangent, draw } = await setUp();
  const run = async (options: Partial<ThroughCmapOptions>) => {
    const own = { ...cmap, iterations: 4 };
    const target = new ThroughCmap(model, net, { cmap: own, backward: 'unroll', ...options });
    const first = await gradient(target, x, cotangent, draw);
    const second = await gradient(target, x, cotangent, draw);
    target.restart();
    const again = await gradient(target, x, cotangent, draw);
    target.dispose();
    assert.equal(again.logits, first.logits, 'a restart begins anew');
    return { first, second };
  };
  const full = await run({});
  assert.equal(full.second.dx, full.first.dx, 'the same draw, the same gradient');
  const truncated = await run({ unroll: { last: 2 } });
  assert.equal(truncated.first.logits, full.first.logits);
  assert.not.equal(truncated.first.dx, full.first.dx);
  const warm = await run({ warmStart: true, backward: 'identity' });
  assert.not.equal(warm.second.logits, warm.first.logits);
});

test('PGD raises its loss through the defence and through the surrogate, within the ball', async () => {
  const { model, net, cmap, x } = await setUp();
  const eps = 16 / 255;
  const options = { eps, steps: 2, stepSize: eps / 2, randomStart: false, seed: 1, keep: 'best' } as const;
  const start = await x.floats();
  const labels = [1, 2];
  const targets = [
    new ThroughCmap(model, net, { cmap: { ...cmap, iterations: 2 }, backward: 'identity' }),
    new ThroughCmap(model, net, { cmap: { ...cmap, iterations: 2 }, backward: 'unroll' }),
    surrogate(model, net),
  ];
  for (const target of targets) {
    const fixed = { ...options, eot: { draws: 2, randomness: 'fixed' as const } };
    const { adversarial, trace, passes } = await new Pgd(fixed).run(target, x, labels);
    const moved = await adversarial.floats();
    assert.ok(moved.every((v, i) => Math.abs(v - (start[i] as number)) <= eps + 1e-7 && v >= 0 && v <= 1));
    for (const { loss } of trace) assert.ok(Math.max(...loss) > (loss[0] as number), `losses ${loss}`);
    assert.is(passes.backward, 2 * 2 * 3);
    adversarial.dispose();
    if (target instanceof ThroughCmap) target.dispose();
  }
});

test('BPDA through the surrogate: its restored images forward, the classifier’s gradient at them backward', async () => {
  const { model, net, x, cotangent, draw } = await setUp();
  let restored: Tensor = x;
  const seeing = {
    classes: net.classes,
    logits: (u: Tensor) => {
      restored = u;
      return net.logits(u);
    },
  };
  const through = (backward: 'exact' | 'identity') => {
    const { logits } = surrogate(model, seeing, publishedAttackSigma, backward);
    const { output, pullback } = vjp((u) => logits(u, draw), [x]);
    return { output, dx: pullback(cotangent)[0] as Tensor };
  };
  const [exact, bpda] = [through('exact'), through('identity')];
  const wanted = vjp((u) => net.logits(u), [restored]).pullback(cotangent)[0] as Tensor;
  assert.equal(await bpda.output.floats(), await exact.output.floats());
  assert.equal(await bpda.dx.floats(), await wanted.floats());
  assert.not.equal(await exact.dx.floats(), await wanted.floats());
});

test('the published attack level, and mistakes', async () => {
  assert.ok(Math.abs(publishedAttackSigma - 0.13952) < 1e-5);
  const { model, net, cmap } = await setUp();
  assert.throws(
    () => surrogate(model, net, 0),
    (e: Error) => e instanceof InputError && /sigma must be positive, got 0/.test(e.message),
  );
  assert.throws(
    () => new ThroughCmap(model, net, { cmap, backward: 'unroll', unroll: { last: 0 } }),
    (e: Error) => e instanceof InputError && /last must be at least 1 update, got 0/.test(e.message),
  );
});

test.run();
