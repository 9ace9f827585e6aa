/**
 * The purifiers against PyTorch in float64, in the coordinates of their papers (reference/defences.py, fixture of
 * make_defences.py), with the same noise; and as defences: gradients, draws, batches, settings.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Pgd } from '../../src/attacks/pgd.ts';
import type { Draw, ProcessTarget } from '../../src/attacks/target.ts';
import { paperCifar10 } from '../../src/cmap/options.ts';
import { adp, adpChain, adpDefaults } from '../../src/defences/adp.ts';
import { ChainRunner, evaluationsOf, type Step } from '../../src/defences/chain.ts';
import { cmapDefence } from '../../src/defences/cmap.ts';
import type { AttackSurface, Defence } from '../../src/defences/defence.ts';
import { consistencyDenoiser, type Denoiser, denoise, scoreDenoiser } from '../../src/defences/denoiser.ts';
import { diffPure, diffPureChain, diffPureDefaults } from '../../src/defences/diffpure.ts';
import { gdmp, gdmpChain, gdmpDefaults } from '../../src/defences/gdmp.ts';
import { gns, gnsChain, gnsDefaults } from '../../src/defences/gns.ts';
import { cosineLevels, ddpmSigma, ladder, vpSigma, vpTime } from '../../src/defences/schedules.ts';
import { vjp } from '../../src/engine/autograd.ts';
import { InputError } from '../../src/engine/errors.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { directionalErrors } from '../../src/eval/verify.ts';
import { add } from '../../src/kernels/broadcast.ts';
import { affine } from '../../src/kernels/elementwise.ts';
import { slice } from '../../src/kernels/shape.ts';
import { adm, improvedDiffusionImageNet64 } from '../../src/nets/adm.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { ScoreNetwork } from '../../src/nets/score.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { syntheticCheckpoint } from '../nets/parity.ts';
import { assertClose, fromNchw, loadFixture, testDevice, toNchw } from '../support.ts';

const fixture = loadFixture('defences/defences');
const setting = (name: string) => JSON.parse(fixture.metadata[name] as string);

async function load() {
  const device = await testDevice();
  const unet = ncsnpp(setting('net'));
  const model = ConsistencyModel.load(device, unet, syntheticCheckpoint(unet.parameters));
  const scoreNet = ncsnpp(setting('score'));
  const score = ScoreNetwork.load(device, scoreNet, syntheticCheckpoint(scoreNet.parameters));
  const architecture = wideResNet({
    depth: 10,
    widen_factor: 1,
    num_classes: 7,
    in_channels: 3,
    image_size: 8,
  });
  const net = ClassifierNet.load(device, architecture, syntheticCheckpoint(architecture.parameters));
  return { device, model, score, net };
}

const refused = (f: () => unknown, message: RegExp) =>
  assert.throws(f, (error: unknown) => error instanceof InputError && message.test(error.message));

let loaded: ReturnType<typeof load> | null = null;
const setUp = () => {
  loaded ??= load();
  return loaded;
};

test('noise levels: the VP-SDE, DDPM and the cosine schedule', () => {
  // σ of DDPM's steps 75, 100, 150 as published for DiffPure.
  for (const [t, sigma] of [
    [75, 0.255],
    [100, 0.339],
    [150, 0.518],
  ] as const)
    assert.ok(Math.abs(ddpmSigma(t) - sigma) < 1e-3, `${t}: ${ddpmSigma(t)}`);
  for (const t of [1e-4, 0.01, 0.1, 0.7, 1])
    assert.ok(Math.abs(vpTime(vpSigma(t)) - t) < 1e-12, `VP time ${t}`);
  // The continuous limit of DDPM's schedule.
  assert.ok(Math.abs(vpSigma(0.1) / ddpmSigma(100) - 1) < 0.01);
  const cosine = cosineLevels(4000);
  const kept = (t: number) =>
    Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2 / Math.cos((0.008 / 1.008) * (Math.PI / 2)) ** 2;
  const half = 1 / (1 + (cosine[1999] as number) ** 2);
  assert.ok(Math.abs(half - kept(0.5)) < 1e-9, `${half}`);
  assert.equal(ladder(10, 3), [10, 7, 3, 0]);
  assert.is(diffPureChain(diffPureDefaults).length, 101);
  assert.is(evaluationsOf(gnsChain(gnsDefaults)), 470);
  assert.is(evaluationsOf(gdmpChain(gdmpDefaults, 3072)), 144);
  assert.is(evaluationsOf(adpChain(adpDefaults)), 20);
});

test('chains and their gradients: PyTorch, with the same noise', async () => {
  const { device, model, score, net } = await setUp();
  const [consistency, edm, vp] = [
    consistencyDenoiser(model),
    consistencyDenoiser(model, 'edm'),
    scoreDenoiser(score),
  ];
  assert.equal([consistency.kind, edm.kind, vp.kind], ['consistency', 'edm', 'vp']);
  const diffpure = setting('diffpure');
  const [adpSettings, gdmpSettings] = [setting('adp'), setting('gdmp')];
  const cases: [string, Denoiser, Step[]][] = [
    ['diffpure.sde', consistency, diffPureChain({ ...diffpure, kind: 'sde' })],
    ['diffpure.ode', consistency, diffPureChain({ ...diffpure, kind: 'ode' })],
    ['diffpure.ddpm', consistency, diffPureChain({ ...diffpure, kind: 'ddpm' })],
    ['diffpure.edm', edm, diffPureChain({ ...diffpure, kind: 'sde' })],
    ['diffpure.vp', vp, diffPureChain({ ...diffpure, kind: 'sde' })],
    ['gns', consistency, gnsChain(setting('gns'))],
    ['gdmp', consistency, gdmpChain({ ...gdmpSettings, meanOver: gdmpSettings.mean_over }, 192)],
    ['adp', consistency, adpChain(adpSettings)],
    ['adp.stop', consistency, adpChain({ ...adpSettings, stop: setting('stop') })],
  ];
  const image = fromNchw(fixture.get('image'));
  const draws = fixture.get('noise');
  const [, ...shape] = draws.shape;
  const size = shape.reduce((p, q) => p * q, 1);
  const noise = (index: number) =>
    device.tensor(...fromNchw({ data: draws.data.slice(index * size, (index + 1) * size), shape }));
  const cotangent = device.tensor(...fromNchw(fixture.get('cotangent')));
  for (const [name, denoiser, steps] of cases) {
    const runner = new ChainRunner(denoiser, net, 2);
    runner.image.write(image[0]);
    const states = await runner.run(steps, noise, true);
    assertClose(toNchw(await runner.u.floats(), shape), fixture.get(`${name}.u`).data, 1e-4, name);
    const gradient = await runner.pullback(steps, noise, states, cotangent);
    assertClose(
      toNchw(await gradient.floats(), shape),
      fixture.get(`${name}.dimage`).data,
      1e-3,
      `gradient of ${name}`,
    );
    if (name === 'gns') await identityBackward(runner);
    for (const tensor of [...states, gradient]) tensor.dispose();
    runner.dispose();
  }
});

/** The backward pass of BPDA: the classifier’s own gradient at the purified images. */
async function identityBackward(runner: ChainRunner): Promise<void> {
  const { net } = await setUp();
  const { device } = net;
  const cotangent = device.tensor(
    Array.from({ length: 14 }, (_, i) => Math.cos(i)),
    [2, 7],
  );
  const u = device.scope(() => affine(runner.u, 1));
  const found = await runner.logitsPullback(u, cotangent, 'images');
  const at = runner.images();
  const wanted = device.scope(() => vjp((v) => net.logits(v), [at]).pullback(cotangent)[0] as Tensor);
  assertClose(await found.floats(), await wanted.floats(), 1e-6, 'identity backward');
  const through = await runner.logitsPullback(u, cotangent, 'u');
  const cut = await u.floats();
  const inside = await wanted.floats();
  assert.ok(
    cut.some((v) => v > 1 || v < -1),
    'something is cut',
  );
  assertClose(
    await through.floats(),
    inside.map((v, i) => (Math.abs(cut[i] as number) > 1 ? 0 : v / 2)),
    1e-6,
    'through the cut to [0, 1]',
  );
  for (const tensor of [cotangent, u, found, at, wanted, through]) tensor.dispose();
}

const surfaceOf = (defence: Defence, name: string) =>
  (defence.surfaces[name] as AttackSurface).target as ProcessTarget;

let made: Defence[] | null = null;

/** Every defence with few steps. */
async function few(): Promise<Defence[]> {
  const { model, net } = await setUp();
  const denoiser = consistencyDenoiser(model);
  made ??= [
    diffPure(denoiser, net, { ...diffPureDefaults, steps: 3, short: 2, copies: 2 }),
    gns(denoiser, net, {
      ...gnsDefaults,
      rounds: [30, 60],
      steps: 2,
      shortRounds: [60],
      shortSteps: [2],
      copies: 3,
    }),
    adp(denoiser, net, { ...adpDefaults, rate: 0.3, probe: 1e-2, steps: 2, copies: 3 }),
    gdmp(denoiser, net, { ...gdmpDefaults, rounds: 2, steps: 2, scale: 3000, short: 2, copies: 3 }),
  ];
  return made;
}

const images = async () => {
  const device = await testDevice();
  const [data, shape] = fromNchw(fixture.get('image'));
  return device.tensor(
    data.map((v) => (v + 1) / 2),
    shape,
  );
};

test('exact surfaces agree with finite differences; BPDA has their forward pass', async () => {
  const device = await testDevice();
  const x = await images();
  for (const defence of await few()) {
    assert.is(defence.surface, 'full');
    for (const [name, { target, exact, knowledge }] of Object.entries(defence.surfaces)) {
      assert.is(exact, name !== 'bpda', `${defence.name} ${name}`);
      assert.is(knowledge, name === 'classifier' ? 'transfer' : 'adaptive');
      if (!exact || name === 'classifier') continue;
      const { errors, zeros } = await directionalErrors(device, target, x, [1, 2], {});
      assert.is(zeros, 0);
      const middle = errors.toSorted((a, b) => a - b)[Math.floor(errors.length / 2)] as number;
      assert.ok(middle < 0.03, `${defence.name} ${name}: ${errors}`);
    }
    const draw: Draw = { seed: 3, rows: device.tensor([0, 1], [2], 'u32'), step: device.zeros([1], 'u32') };
    const cotangent = device.tensor(
      new Float32Array(14).fill(0.3).map((v, i) => v - i / 20),
      [2, 7],
    );
    const grab = async (name: string) => {
      const process = await surfaceOf(defence, name).process(x, draw);
      const logits = await process.logits.floats();
      const dx = await process.pullback(cotangent);
      const host = await dx.floats();
      dx.dispose();
      process.dispose();
      return { logits, dx: host };
    };
    const [full, bpda] = [await grab('full'), await grab('bpda')];
    assert.equal(bpda.logits, full.logits, 'one forward pass, one randomness');
    assert.not.equal(bpda.dx, full.dx);
  }
});

test('draws differ, judgements differ by seed, and neither depends on the batch', async () => {
  const device = await testDevice();
  const x = await images();
  for (const defence of await few()) {
    const judge = async (tensor: typeof x, imageIds: number[], seed: number) => {
      const { votes, purified } = await defence.judge(tensor, { seed, imageIds });
      const host = await (purified as typeof x).floats();
      assert.equal((purified as typeof x).shape.slice(0, 2), [
        imageIds.length,
        defence.name === 'diffpure' ? 2 : 3,
      ]);
      assert.ok(
        votes.every((v) => v.votes.reduce((a, b) => a + b, 0) === (defence.name === 'diffpure' ? 2 : 3)),
      );
      assert.ok(host.every((v) => v >= 0 && v <= 1));
      purified?.dispose();
      return { votes, host };
    };
    const whole = await judge(x, [5, 9], 1);
    const data = await x.floats();
    const half = data.length / 2;
    const second = device.tensor(data.slice(half), [1, ...x.shape.slice(1)]);
    const alone = await judge(second, [9], 1);
    assertClose(alone.host, whole.host.slice(whole.host.length / 2), 1e-6, `${defence.name} alone`);
    assert.equal(alone.votes[0]?.votes, whole.votes[1]?.votes);
    const other = await judge(second, [9], 2);
    assert.not.equal(other.host, alone.host, 'another seed');
    const size = alone.host.length / (defence.name === 'diffpure' ? 2 : 3);
    assert.not.equal(
      alone.host.slice(0, size),
      alone.host.slice(size, 2 * size),
      'copies have noise of their own',
    );

    const target = surfaceOf(defence, 'full');
    const draw: Draw = { seed: 3, rows: device.tensor([9], [1], 'u32'), step: device.zeros([1], 'u32') };
    const logits = async (step: number) => {
      draw.step.write([step]);
      const process = await target.process(second, draw);
      const host = await process.logits.floats();
      process.dispose();
      return host;
    };
    const first = await logits(0);
    assert.equal(await logits(0), first, 'the same draw');
    assert.not.equal(await logits(1), first, 'expectation over draws');
    second.dispose();
  }
});

test('PGD with draws raises its loss through the whole chain', async () => {
  const x = await images();
  const [defence] = (await few()) as [Defence];
  const eps = 16 / 255;
  const pgd = new Pgd({
    eps,
    steps: 3,
    stepSize: eps / 2,
    randomStart: false,
    seed: 1,
    keep: 'best',
    eot: { draws: 2, randomness: 'fixed' },
  });
  const { adversarial, trace, passes } = await pgd.run(surfaceOf(defence, 'full'), x, [1, 2]);
  assert.ok(trace.every(({ loss }) => (loss.at(-1) as number) > (loss[0] as number)));
  assert.ok(passes.backward > 0);
  adversarial.dispose();
});

test('networks and settings that do not fit', async () => {
  const { device, model, net } = await setUp();
  const denoiser = consistencyDenoiser(model);
  refused(
    () => diffPure(denoiser, net, { ...diffPureDefaults, t: 2 }),
    /diffpure: t must be in \[0.001, 1\], got 2/,
  );
  refused(
    () => diffPure(denoiser, net, { ...diffPureDefaults, kind: 'ddpm', steps: 101 }),
    /diffpure: steps must be an integer of 1 to 1000 t = 100, or 0 for all, got 101/,
  );
  refused(() => gns(denoiser, net, { ...gnsDefaults, rounds: [30, 0] }), /gns: rounds .* got 30,0/);
  refused(
    () => gns(denoiser, net, { ...gnsDefaults, shortSteps: [1] }),
    /gns: shortSteps must be 3 integers/,
  );
  refused(
    () => adp(denoiser, net, { ...adpDefaults, most: 1e-6 }),
    /adp: most .* least = 0.00001, got 0.000001/,
  );
  refused(() => gdmp(denoiser, net, { ...gdmpDefaults, steps: 37 }), /gdmp: steps .* t = 36/);
  const wide = wideResNet({ depth: 10, widen_factor: 1, num_classes: 7, in_channels: 3, image_size: 16 });
  const other = ClassifierNet.load(device, wide, syntheticCheckpoint(wide.parameters));
  refused(() => diffPure(denoiser, other), /makes images of \[8,8,3\], the classifier takes \[16,16,3\]/);
  other.dispose();
});

test('improved-diffusion: its steps, and the noise without the variance', async () => {
  const { device } = await setUp();
  const config = {
    ...improvedDiffusionImageNet64,
    image_size: 8,
    num_channels: 32,
    num_res_blocks: 1,
    channel_mult: [1, 1],
    attention_resolutions: [4],
  };
  const unet = adm(config);
  const net = ScoreNetwork.load(device, unet, syntheticCheckpoint(unet.parameters));
  const denoiser = scoreDenoiser(net);
  assert.is(denoiser.kind, 'vp-cosine');
  const levels = cosineLevels(4000);
  const sigma = levels[700] as number;
  const { time, ...scalings } = denoiser.scalings(sigma);
  assert.is(time, 175, 'labels are steps of 1000 (rescale_timesteps)');
  const between = denoiser.scalings(Math.sqrt(sigma * (levels[701] as number))).time;
  assert.ok(Math.abs(between - 700.5 / 4) < 1e-9, `${between}`);
  assert.is(denoiser.scalings(1e-9).time, 0);
  assert.is(denoiser.scalings(1e9).time, 999.75);
  // The LSUN and guided-diffusion checkpoints: variances learned, but 1000 linear steps as they are.
  const thousand = { diffusion_steps: 1000, noise_schedule: 'linear', rescale_timesteps: false } as const;
  const linear = scoreDenoiser(new ScoreNetwork(device, adm({ ...config, ...thousand }), net.parameters));
  assert.is(linear.kind, 'vp-linear');
  assert.ok(Math.abs(linear.scalings(ddpmSigma(150)).time - 149) < 1e-9);
  const asTheyAre = adm({ ...config, rescale_timesteps: false });
  assert.is(scoreDenoiser(new ScoreNetwork(device, asTheyAre, net.parameters)).scalings(sigma).time, 700);
  refused(
    () => adm({ ...config, noise_schedule: 'sqrt' as 'linear' }),
    /noise_schedule must be linear or cosine, got "sqrt"/,
  );
  refused(() => adm({ ...config, predict_xstart: true } as object), /predict_xstart true is not built/);
  const x = await images();
  const [found, wanted] = device.scope(() => {
    const one = (v: number) => device.tensor([v], [1, 1, 1, 1]);
    const waves = unet.waves(net.parameters, [time]);
    const numbers = { skip: one(scalings.skip), out: one(scalings.out), in: one(scalings.in) };
    const noise = slice(net.predict(affine(x, 1 / Math.sqrt(1 + sigma ** 2)), 175), 3, 0, 3);
    return [
      denoise(denoiser, x, device.tensor(waves, [1, waves.length]), numbers),
      add(x, affine(noise, -sigma)),
    ];
  }) as [Tensor, Tensor];
  assertClose(await found.floats(), await wanted.floats(), 1e-6, 'D = u − σε');
  const conditional = adm({ ...config, class_cond: true, num_classes: 5 });
  const made = ScoreNetwork.load(device, conditional, syntheticCheckpoint(conditional.parameters));
  assert.throws(() => scoreDenoiser(made), /conditional on 5 classes/);
  for (const used of [net, made]) used.dispose();
});

test('disposed, a defence keeps nothing on the device, and works again', async () => {
  const device = await testDevice();
  const { model, net } = await setUp();
  const x = await images();
  const draw: Draw = { seed: 3, rows: device.tensor([0, 1], [2], 'u32'), step: device.zeros([1], 'u32') };
  const cmap = { ...paperCifar10, k: 2, iterations: 1 };
  for (const defence of [...(await few()), cmapDefence(model, net, cmap)]) {
    const use = async () => {
      const surface = defence.name === 'cmap' ? 'unroll' : 'full';
      const process = await surfaceOf(defence, surface).process(x, draw);
      const logits = await process.logits.floats();
      process.dispose();
      const { votes, purified } = await defence.judge(x, { seed: 1, imageIds: [0, 1] });
      purified?.dispose();
      return { votes, logits };
    };
    defence.dispose?.();
    const { tensors } = device.memory();
    const first = await use();
    defence.dispose?.();
    const { tensors: after } = device.memory();
    assert.is(after, tensors, defence.name);
    assert.equal(await use(), first, defence.name);
    defence.dispose?.();
  }
});

test.run();
