import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CmapError, InputError } from '../../src/engine/errors.ts';
import { encodePng } from '../../src/formats/png.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { add } from '../../src/kernels/broadcast.ts';
import { sqrt, square } from '../../src/kernels/elementwise.ts';
import { sum } from '../../src/kernels/reduce.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import type { Parameters } from '../../src/nets/parameters.ts';
import { network } from '../../src/nets/registry.ts';
import { Batches } from '../../src/train/batches.ts';
import { continued, savedRun } from '../../src/train/checkpoint.ts';
import { checked, configure, configureFrom, presets, type TrainConfig } from '../../src/train/config.ts';
import { decodeFiles, loadTrainingData } from '../../src/train/data.ts';
import { type LogEntry, readLosses, type TrainHooks, train } from '../../src/train/loop.ts';
import { networkOf, Session } from '../../src/train/session.ts';
import { TrainingStep } from '../../src/train/step.ts';
import { ParameterStore } from '../../src/train/store.ts';
import { lcg, testDevice } from '../support.ts';

const test = suite('train');
const folder = mkdtempSync(join(tmpdir(), 'cmap-train-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const images = ['dataset=fashion-mnist-1000', 'sample_every=0'];
const small = [
  ...images,
  'net_config={"image_size":28,"num_channels":1,"nf":8,"ch_mult":[1],"num_res_blocks":1,"attn_resolutions":[],"patch_size":4}',
];
const wrn = [
  ...images,
  'net_config={"depth":10,"widen_factor":1,"in_channels":1,"image_size":28}',
  'count=64',
];

async function run(preset: string, settings: string[], out: string, hooks: TrainHooks = {}, resume = false) {
  const config = configure(preset, settings);
  const data = await loadTrainingData(config, 28);
  return train(await testDevice(), config, data, { out: join(folder, out), resume }, hooks);
}

const bytes = (out: string, file: string) => readFileSync(join(folder, out, file));
const log = (out: string) =>
  bytes(out, 'log.jsonl')
    .toString()
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as LogEntry);

/** A line of the log without what a clock said. */
const timeless = ({ seconds, images_per_second, waited, ...entry }: LogEntry) => entry;

for (const [name, preset, settings] of [
  [
    'a consistency model with target, averages, clipping and dropout',
    'fashion-mnist-ct',
    [...small, 'averages=0.9,0.99', 'dropout=0.1', 'clip=0.5', 'batch=4'],
  ],
  [
    'a classifier with running statistics, mixup, dropout and accumulated gradients',
    'fashion-mnist-wrn',
    [...wrn, 'mixup=0.4', 'batch=2', 'accumulate=2', 'dropout=0.2', 'averages=0.9'],
  ],
] as const) {
  test(`${name}: killed after a checkpoint, it goes on bit for bit`, async () => {
    const device = await testDevice();
    const before = device.memory().tensors;
    const all = [...settings, 'steps=7', 'log_every=2', 'checkpoint_every=3'];
    const whole = await run(preset, all, `${preset}-whole`);
    assert.is(whole.steps, 7);
    const killed = `${preset}-killed`;
    const kill: TrainHooks = {
      onLog: (entries) => {
        if (entries.at(-1)!.step >= 5) throw new Error('killed');
      },
    };
    let error: Error | null = null;
    await run(preset, all, killed, kill).catch((e: Error) => {
      error = e;
    });
    assert.is((error as Error | null)?.message, 'killed');
    assert.not(existsSync(join(folder, killed, 'weights.safetensors')));
    appendFileSync(join(folder, killed, 'log.jsonl'), '{"step":6,"lo');
    await run(preset, all, killed, {}, true);
    for (const file of ['checkpoint.safetensors', 'weights.safetensors', 'config.json'])
      assert.ok(bytes(killed, file).equals(bytes(`${preset}-whole`, file)), `${file} is the same`);
    assert.equal(log(killed).map(timeless), log(`${preset}-whole`).map(timeless));
    assert.equal(
      log(killed).map((entry) => entry.step),
      [1, 2, 3, 4, 5, 6, 7],
    );
    const clock = log(killed).map(({ seconds }) => seconds);
    assert.ok(
      clock.every((s, i) => s >= (clock[i - 1] ?? 0)) && log(killed).every((e) => e.images_per_second > 0),
      `time goes on where it stopped: ${clock}`,
    );
    assert.is(device.memory().tensors, before, 'nothing is left behind');
  });
}

test('a run that is interrupted saves and stops; another configuration is refused with both values', async () => {
  const stop = new AbortController();
  const settings = [...small, 'steps=50', 'batch=2', 'log_every=1'];
  const result = await run('fashion-mnist-edm', settings, 'stopped', {
    signal: stop.signal,
    onStep: (done) => {
      if (done >= 2) stop.abort();
    },
  });
  assert.ok(result.interrupted && result.steps < 10, `${result.steps}`);
  const file = openSafetensors(join(folder, 'stopped', 'checkpoint.safetensors'));
  assert.is(file.metadata.step, String(result.steps));
  file.close();
  const batch = [...small, 'steps=50', 'batch=4', 'log_every=1'];
  await refuses(
    run('fashion-mnist-edm', batch, 'stopped', {}, true),
    /trained with batch=2, not 4; leave it out, or begin/,
  );
  await refuses(run('fashion-mnist-edm', settings, 'stopped'), /is there already; go on with --resume/);
  await refuses(run('fashion-mnist-edm', settings, 'nothing', {}, true), /there is nothing to resume/);
});

async function refuses(promise: Promise<unknown>, message: RegExp) {
  const error = await promise.then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(error instanceof InputError && message.test(error.message), String(error));
}

/** What lies in a run's folder, by name. */
const contents = (out: string) =>
  new Map(readdirSync(join(folder, out)).map((name) => [name, bytes(out, name).toString('base64')]));

test('a finished run is left as it is; more steps continue it bit for bit where no schedule spreads over them', async () => {
  const settings = [...small, 'batch=2', 'schedule=constant', 'averages=0.9', 'log_every=2'];
  const to = (steps: number, out: string, resume: boolean, hooks: TrainHooks = {}) =>
    run('fashion-mnist-edm', [...settings, `steps=${steps}`], out, hooks, resume);
  await to(6, 'six', false);
  await to(3, 'more', false);
  const before = contents('more');
  let looks = 0;
  const again = await to(3, 'more', true, { onLook: () => void looks++ });
  assert.equal([again.steps, again.interrupted, looks], [3, false, 0]);
  assert.is(again.loss, log('more').at(-1)?.loss);
  assert.equal(contents('more'), before, 'nothing is written');
  await refuses(to(2, 'more', true), /has had 3 updates, more than steps=2; take a larger number/);
  await to(6, 'more', true);
  assert.ok(bytes('more', 'weights.safetensors').equals(bytes('six', 'weights.safetensors')), 'bit for bit');
  assert.ok(bytes('more', 'checkpoint.safetensors').equals(bytes('six', 'checkpoint.safetensors')));

  // Killed after the last checkpoint, before its result was written.
  rmSync(join(folder, 'more', 'weights.safetensors'));
  const ended = await to(6, 'more', true, { onLook: () => void looks++ });
  assert.ok(looks === 1 && Number.isFinite(ended.loss));
  assert.ok(bytes('more', 'weights.safetensors').equals(bytes('six', 'weights.safetensors')));
});

test('steps are not changed where a schedule spreads over them', () => {
  const saved = (preset: string) => ({ step: 5, config: configure(preset, ['steps=10']), adapter: '' });
  for (const [preset, spreads] of [
    [
      'fashion-mnist-edm',
      /steps=10, over which schedule=cosine spreads: with 20 its 5 updates would have been others/,
    ],
    ['fashion-mnist-ct', /over which N\(k\) of task ct spreads/],
    ['fashion-mnist-ict', /over which N\(k\) of task ict spreads/],
  ] as const)
    assert.throws(
      () => continued('x', saved(preset), configure(preset, ['steps=20'])),
      (e: Error) => e instanceof InputError && spreads.test(e.message),
    );
  assert.equal(
    continued('x', saved('fashion-mnist-ect'), configure('fashion-mnist-ect', ['steps=20', 'log_every=7'])),
    { steps: 20 },
  );
});

test('lr and clip may be changed on the way, and the log and the configuration say so', async () => {
  const settings = [...small, 'batch=2', 'schedule=constant', 'warmup=0', 'log_every=1', 'steps=2'];
  await run('fashion-mnist-edm', settings, 'steered');
  // What comes to no checkpoint has not been.
  const kill: TrainHooks = {
    onLog: () => {
      throw new Error('killed');
    },
  };
  const killed = run('fashion-mnist-edm', [...settings, 'steps=4', 'lr=1'], 'steered', kill, true);
  assert.match(String(await killed.catch((e: Error) => e)), /killed/);
  assert.equal(log('steered')[2] as unknown, { step: 2, changed: { lr: 1, steps: 4 } });
  const steered = [...settings, 'steps=4', 'lr=1e-4', 'clip=0.01'];
  await run('fashion-mnist-edm', steered, 'steered', {}, true);
  assert.equal(log('steered')[2] as unknown, { step: 2, changed: { lr: 1e-4, clip: 0.01, steps: 4 } });
  assert.is(log('steered').length, 5);
  const losses = readLosses(join(folder, 'steered'));
  assert.equal(
    losses.map(({ step, lr }) => [step, lr]),
    [
      [1, 1.5e-3],
      [2, 1.5e-3],
      [3, 1e-4],
      [4, 1e-4],
    ],
  );
  assert.is(JSON.parse(bytes('steered', 'config.json').toString()).clip, 0.01);
});

test('on another adapter a line says that it is not bit for bit', async () => {
  const settings = [...small, 'batch=2', 'schedule=constant', 'steps=1'];
  await run('fashion-mnist-edm', settings, 'moved');
  const path = join(folder, 'moved', 'checkpoint.safetensors');
  const file = openSafetensors(path);
  const tensors = Object.fromEntries(
    file.names.map((n) => [n, { shape: file.shape(n), data: file.read(n) as Float32Array }]),
  );
  writeSafetensors(path, tensors, { ...file.metadata, adapter: 'Another GPU' });
  file.close();
  const said: string[] = [];
  const notice: TrainHooks = { onNotice: (text) => said.push(text) };
  await run('fashion-mnist-edm', [...settings, 'steps=2'], 'moved', notice, true);
  await run('fashion-mnist-edm', [...settings, 'steps=3'], 'moved', notice, true);
  const { name } = (await testDevice()).adapter;
  assert.is(said.length, 1, said.join('\n'));
  assert.ok(said[0]!.startsWith(`the checkpoint was made on Another GPU, this is ${name}: `), said[0]);
});

test('a configuration is read from a file, with settings on top', () => {
  const path = join(folder, 'given.json');
  const write = (value: unknown) => writeFileSync(path, JSON.stringify(value));
  const wrote = configure('fashion-mnist-ict', ['seed=3']);
  write(wrote);
  assert.equal(configureFrom(path, []), wrote);
  assert.equal(
    configureFrom(path, ['lr=1', 'net_config.nf=8']),
    configure('fashion-mnist-ict', ['seed=3', 'lr=1', 'net_config.nf=8']),
  );
  const no = (value: unknown, message: RegExp, settings: string[] = []) => {
    write(value);
    assert.throws(
      () => configureFrom(path, settings),
      (e: Error) => (e instanceof InputError && message.test(e.message)) || assert.unreachable(String(e)),
    );
  };
  no([], /given.json: not an object of settings/);
  no({ lerning: 1 }, /given.json: there is no setting "lerning"; there are task/);
  no({ lr: '1e-3' }, /given.json: lr is "1e-3", wants what is like 0.001/);
  no({ averages: 0.9 }, /averages is 0.9, wants what is like \[0.999\]/);
  no({ lr: -1 }, /lr must be above 0/);
  no({ mixup: 0.3 }, /mixup=0.3 has no effect here: it belongs to task=classifier/);
  writeFileSync(path, '{');
  assert.throws(() => configureFrom(path, []), /given.json: not valid JSON/);
});

test('smoke: a denoiser of 1,000 images loses two fifths of its loss in 50 updates, and is loaded by name', async () => {
  // At levels around e, where the images' mean is most of what there is to learn at first; (a run of 60 updates: 1.75 to a mean of 0.92 over its second half).
  const settings = [
    ...small,
    ...['net_config.nf=16', 'steps=50', 'batch=8', 'lr=1e-2', 'warmup=5', 'log_every=20', 'averages=0.9'],
    ...['log_mean=1', 'log_std=0.5'],
  ];
  let shape: readonly number[] = [];
  await run('fashion-mnist-edm', settings, 'smoke', {
    onLook: (_, look) => {
      if (look.kind === 'samples') shape = look.shape;
      assert.ok(look.kind === 'samples' && look.images.every((v) => v >= 0 && v <= 1));
    },
  });
  assert.equal(shape, [16, 28, 28, 1]);
  const entries = log('smoke');
  const mean = (from: number, to: number) =>
    entries.slice(from, to).reduce((sum, e) => sum + e.loss, 0) / (to - from);
  const [start, end] = [mean(0, 10), mean(40, 50)];
  assert.ok(end < 0.6 * start, `loss ${start} -> ${end}`);

  const device = await testDevice();
  const config = configure('fashion-mnist-edm', settings);
  const unet = ncsnpp(config.net_config);
  const [weights, checkpoint] = ['weights', 'checkpoint'].map((name) =>
    openSafetensors(join(folder, 'smoke', `${name}.safetensors`)),
  );
  // The checkpoint offers its moving average, which is what was exported.
  const models = [weights!, checkpoint!].map((file) => {
    const source = {
      label: file.label,
      names: file.names,
      shape: (n: string) => file.shape(n),
      floats: (n: string) => file.read(n) as Float32Array,
    };
    return ConsistencyModel.load(device, unet, source, { sigmas: { min: 0, max: 80, data: 0.5 } });
  });
  const x = device.full([1, 28, 28, 1], 0.3);
  const [a, b] = await Promise.all(models.map((m) => device.scope(() => m.denoise(x, 0.5)).floats()));
  assert.equal(a, b);
  for (const part of [...models, x]) part.dispose();
  for (const file of [weights!, checkpoint!]) file.close();
});

test('a loss that is no number names the kernel; the last good checkpoint stays', async () => {
  const fails = async (settings: string[], out: string) => {
    const error = await run('fashion-mnist-edm', [...small, 'batch=2', 'warmup=0', ...settings], out).then(
      () => null,
      (e: Error) => e,
    );
    assert.ok(error instanceof CmapError, String(error));
    return error!.message;
  };
  assert.match(
    await fails(['steps=8', 'lr=1e20', 'log_every=2'], 'nan'),
    /update 2: the loss is (NaN|-?Infinity|\d.*), .* not finite is of kernel [\w-]+ in [\w ]+ \[.*\], dispatch \d+ of \d+; .* no checkpoint was written yet; begin anew with a lower lr/,
  );
  assert.not(existsSync(join(folder, 'nan', 'checkpoint.safetensors')));
  // A checkpoint an update: the first is of finite, if huge, parameters.
  assert.match(
    await fails(['steps=8', 'lr=1e20', 'checkpoint_every=1'], 'nan2'),
    /update 2: .*nan2\/checkpoint.safetensors is of the update before, which went wrong already; begin anew with a lower lr/,
  );
  // Adam's first step is lr: beyond the largest f32 the parameters themselves are lost, though the loss was a number.
  assert.match(
    await fails(['steps=8', 'lr=1e39', 'checkpoint_every=1'], 'nan3'),
    /after update 1 model\.\S+ holds numbers that are not finite; no checkpoint was written yet/,
  );
  assert.not(existsSync(join(folder, 'nan3', 'checkpoint.safetensors')));
});

test('a gradient that is no number names the kernel of the backward pass and the parameter', async () => {
  const device = await testDevice();
  const declared = new Map(['a', 'b'].map((name) => [name, { shape: [2], file: [2] }]));
  const weights = { label: 'zeros', names: ['a', 'b'], shape: () => [2], floats: () => new Float32Array(2) };
  const store = new ParameterStore(device, declared, weights);
  // |b| as √b², whose slope at 0 is 0/0.
  const recipe = {
    batch: 1,
    load() {},
    loss: (p: Parameters) => sum(add(p.get('a'), sqrt(square(p.get('b')))), [0], { keepDims: true }),
    dispose() {},
  };
  const rate = { lr: 0.1, schedule: 'constant', warmup: 0, steps: 1 };
  const step = new TrainingStep(store, recipe, {
    rate,
    optimiser: { kind: 'adam' },
    averages: [],
    traceLength: 1,
  });
  step.run(0);
  const [loss, norm] = await step.trace.rows.floats();
  assert.is(loss, 0, 'the forward pass is finite');
  assert.ok(!Number.isFinite(norm));
  assert.match(
    await step.diagnose(0),
    /of kernel [\w-]+ in the gradient of sqrt \[2\], .* that of b is the first/,
  );
  assert.equal([...(await store.tensors[0]!.floats())], [0, 0], 'no parameter has moved');
  for (const part of [step, store]) part.dispose();
});

test('only the last layer is trained; what it stands on stays, bit for bit', async () => {
  const base = [...wrn, 'batch=4', 'log_every=2', 'steps=2', 'averages='];
  await run('fashion-mnist-wrn', base, 'base');
  const init = join(folder, 'base', 'weights.safetensors');
  await run(
    'fashion-mnist-wrn',
    [...base, 'trained=head', `init=${init}`, 'net_config.num_classes=12'],
    'head',
  );
  const [was, is] = ['base', 'head'].map((out) => openSafetensors(join(folder, out, 'weights.safetensors')));
  assert.equal(is!.shape('fc.weight').slice(0, 1), [12], 'a new head of another size');
  for (const name of was!.names)
    if (!name.startsWith('fc.')) assert.equal(is!.read(name), was!.read(name), name);
  for (const file of [was!, is!]) file.close();
});

test('what a run started from may be gone when it is resumed; levels of noise go with the network', async () => {
  const once = [...small, 'batch=2', 'log_every=1', 'averages='];
  await run('fashion-mnist-edm', [...once, 'seed=7', 'steps=1'], 'start');
  const from = join(folder, 'start', 'weights.safetensors');
  const settings = [...once, `init=${from}`, 'sigma_max=20', 'sigma_data=0.1'];
  await run('fashion-mnist-edm', [...settings, 'steps=4', 'schedule=constant'], 'going-whole');
  await run('fashion-mnist-edm', [...settings, 'steps=2', 'schedule=constant'], 'going');
  rmSync(from);
  await run('fashion-mnist-edm', [...settings, 'steps=4', 'schedule=constant'], 'going', {}, true);
  assert.ok(bytes('going', 'weights.safetensors').equals(bytes('going-whole', 'weights.safetensors')));
  const found = network('ncsnpp', JSON.parse(String(bytes('going', 'net.json'))));
  assert.equal(found.kind !== 'classifier' && found.sigmas, { min: 0.002, max: 20, data: 0.1 });
});

test('presets are whole, can be built, and set nothing without effect', () => {
  for (const [name, preset] of Object.entries(presets)) {
    const config = configure(name, []);
    networkOf(config);
    checked(config, Object.keys(preset) as (keyof TrainConfig)[]);
  }
});

/** Must be refused in one line. */
function wrong(preset: string, settings: string[], message: RegExp) {
  const refused = (e: Error) =>
    e instanceof InputError && message.test(e.message) && !e.message.includes('\n');
  assert.throws(
    () => networkOf(configure(preset, settings)),
    (e: Error) => refused(e) || assert.unreachable(`${settings}: ${e}`),
  );
}

test('what is wrong with a setting is said in one line', () => {
  const edm = (setting: string, message: RegExp) => wrong('fashion-mnist-edm', [setting], message);
  edm('lerning=1', /there is no setting "lerning"; there are task, dataset/);
  edm('lr=fast', /lr wants a number, got "fast"/);
  edm('steps=0', /steps must be an integer of at least 1, got 0/);
  edm('net=ddpmpp', /ddpmpp predicts noise at times of its own/);
  edm('average_rampup=2', /average_rampup must be in \[0, 1\], got 2/);
  edm('averages=0.9,1', /averages must be in \[0, 1\), got 1/);
  edm('averages=0.9,0.9', /averages must differ from each other, got 0.9, 0.9/);
  edm('flip=yes', /flip wants true or false/);
  edm('lr', /"lr" is not KEY=VALUE/);
  edm('task=gan', /task is one of edm, ct/);
  edm('optimiser=lion', /optimiser is one of adam, radam, sgd, got "lion"/);
  edm('accumulate=0', /accumulate must be an integer of at least 1, got 0/);
  edm('dropout=1', /dropout must be in \[0, 1\), got 1/);
  edm('augment=2', /augment must be in \[0, 1\], got 2/);
  edm('clip=-1', /clip must be at least 0 \(0 is none\), got -1/);
  edm('lr=-1', /lr must be above 0, got -1/);
  edm('lr=0', /lr must be above 0, got 0/);
  edm('beta2=1', /beta2 must be in \[0, 1\), got 1/);
  edm('weight_decay=-1e-4', /weight_decay must be at least 0, got -0.0001/);
  edm('crop=1.5', /crop must be an integer of at least 0, got 1.5/);
  edm('log_std=0', /log_std must be above 0, got 0/);
  edm('sigma_min=90', /sigma_min must be below sigma_max, got 90 and 80/);
  const conditional = ['net=adm-imagenet64-cond', 'net_config={}'];
  wrong('fashion-mnist-edm', conditional, /adm-imagenet64-cond is class-conditional or predicts a variance/);
  wrong('fashion-mnist-ct', ['s0=200'], /s0 must be at most s1, got 200 and 150/);
  wrong('fashion-mnist-ect', ['q=1'], /q must be above 1, got 1/);
  wrong('fashion-mnist-ect', ['stage_steps=0'], /stage_steps must be an integer of at least 1, got 0/);
  wrong('fashion-mnist-wrn', ['momentum=0'], /nesterov wants a momentum above 0; set nesterov=false/);
  wrong(
    'cifar10-wrn-adversarial',
    ['mixup=0.2'],
    /mixup and adversarial=pgd exclude each other; set mixup=0/,
  );
  wrong('cifar10-wrn-adversarial', ['attack_eps=8'], /attack_eps must be above 0, at most 1, got 8/);
  wrong('cifar10-wrn', ['net=resnet20', 'dropout=0.1'], /resnet20 has no place for dropout/);
  const adm = ['augment=0.1', 'net=adm-imagenet64', 'net_config={}'];
  wrong('cifar10-edm', adm, /augment is built for NCSN\+\+, not adm-imagenet64/);
  wrong('mnist', [], /there is no preset "mnist"; there are fashion-mnist-edm/);
  assert.is(configure('cifar10-wrn-adversarial', ['attack_eps=8/255']).attack_eps, 8 / 255);
  assert.is(configure('fashion-mnist-edm', ['net_config.nf=32']).net_config.nf, 32);
});

test('a setting without effect is refused with what it belongs to; turned off it is taken', () => {
  const idle = (preset: string, settings: string[], owner: string) =>
    wrong(
      preset,
      settings,
      new RegExp(`${settings.at(-1)} has no effect here: it belongs to ${owner}; leave`),
    );
  idle('fashion-mnist-edm', ['mixup=0.2'], 'task=classifier');
  idle('fashion-mnist-edm', ['stage_steps=25000'], 'task=ect');
  idle('fashion-mnist-edm', ['huber=0.1'], 'task=ct or cd or ict or ect');
  idle('fashion-mnist-edm', ['momentum=0.9'], 'optimiser=sgd');
  idle('fashion-mnist-edm', ['attack_steps=3'], 'task=classifier');
  idle('fashion-mnist-edm', ['decay_matrices_only=true'], 'weight_decay above 0');
  idle('fashion-mnist-edm', ['augment=0.1', 'flip=true'], 'augment=0, since augmentation mirrors by itself');
  idle('fashion-mnist-ect', ['augment=0.1'], 'task=edm');
  idle('fashion-mnist-ict', ['mu0=0.9'], 'task=ct or cd');
  idle('fashion-mnist-cd', ['s0=2'], 'task=ct or ict');
  idle('fashion-mnist-ct', ['lpips_size=64'], 'distance=lpips');
  idle('fashion-mnist-wrn', ['attack_steps=3'], 'adversarial=pgd or trades');
  idle('cifar10-wrn-adversarial', ['trades_beta=1'], 'adversarial=trades');
  idle('fashion-mnist-wrn', ['sigma_max=8'], 'task=edm or ct or cd or ict or ect');
  wrong(
    'fashion-mnist-wrn',
    ['recompute_storage=f16'],
    /="f16" has no effect here: it belongs to recompute=true/,
  );
  wrong('fashion-mnist-wrn', ['teacher=a.pt'], /teacher="a.pt" has no effect here: it belongs to task=cd/);
  wrong(
    'fashion-mnist-edm',
    ['dataset=fashion-mnist-1000', 'data=x'],
    /it belongs to dataset=fashion-mnist or/,
  );
  configure('fashion-mnist-edm', ['mixup=0', 'adversarial=none', 'teacher=']);
});

/** A run that is not begun. */
async function refusedRun(preset: string, settings: string[], message: RegExp) {
  const error = await run(preset, settings, 'refused').then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(error instanceof InputError && message.test(error.message), String(error));
  assert.not(existsSync(join(folder, 'refused')), 'no folder');
}

test('nothing is begun where a setting, a file or the data are wrong', async () => {
  const before = (await testDevice()).memory().tensors;
  await refusedRun('cifar10-ct-published', small, /distance=lpips wants its weights: lpips=BACKBONE,LIN/);
  await refusedRun('fashion-mnist-cd', small, /cd wants teacher=FILE/);
  await refusedRun('fashion-mnist-cd', [...small, 'teacher=nowhere.pt'], /nowhere\.pt/);
  await refusedRun('fashion-mnist-edm', [...small, 'init=nowhere.pt'], /nowhere\.pt/);
  // The student is on the device by then, its teacher is not.
  const half = [...small, 'teacher=nowhere.pt', `init=${join(folder, 'smoke', 'weights.safetensors')}`];
  await refusedRun('fashion-mnist-cd', [...half, 'net_config.nf=16'], /nowhere\.pt/);
  await refusedRun('fashion-mnist-wrn', [...wrn, 'trained=head'], /trained=head wants init=FILE/);
  await refusedRun(
    'fashion-mnist-edm',
    [...small, 'crop=28'],
    /crop must be an integer of 0 to 27 pixels, got 28/,
  );
  assert.is((await testDevice()).memory().tensors, before, 'nothing is left behind');
});

test('a distilled student starts from its teacher, or from init; iCT embeds noise coarsely', async () => {
  const start = async (preset: string, settings: string[]) => {
    const config = configure(preset, ['dataset=fashion-mnist-1000', 'count=8', 'batch=2', ...settings]);
    const session = await Session.open(await testDevice(), config, await loadTrainingData(config, 28));
    const values = await session.store.parameters.get('Conv_0.kernel').floats();
    const waves = session.store.parameters.host('GaussianFourierProjection_0.W');
    session.dispose();
    return { values: [...values], waves };
  };
  const once = [...small, 'batch=2', 'steps=1', 'averages='];
  await run('fashion-mnist-edm', once, 'teacher');
  await run('fashion-mnist-edm', [...once, 'seed=1'], 'other');
  const [teacher, other] = ['teacher', 'other'].map((out) => join(folder, out, 'weights.safetensors'));
  // A teacher is a denoiser under the student's scalings.
  await run('fashion-mnist-edm', [...once, 'sigma_data=1'], 'scaled');
  const scaled = join(folder, 'scaled', 'weights.safetensors');
  await refusedRun('fashion-mnist-cd', [...once, `teacher=${scaled}`], /with sigma_data=1, this run has 0.5/);
  await run('fashion-mnist-cd', [...once, `teacher=${teacher}`], 'student');
  const student = join(folder, 'student', 'weights.safetensors');
  await refusedRun('fashion-mnist-cd', [...once, `teacher=${student}`], /trained as cd; cd wants a denoiser/);
  const [taught, given, fresh] = [
    await start('fashion-mnist-cd', [small.at(-1)!, `teacher=${teacher}`]),
    await start('fashion-mnist-cd', [small.at(-1)!, `teacher=${teacher}`, `init=${other}`]),
    await start('fashion-mnist-ct', [small.at(-1)!]),
  ];
  const edmOf = (init: string) => start('fashion-mnist-edm', [small.at(-1)!, `init=${init}`]);
  assert.equal(taught.values, (await edmOf(teacher!)).values);
  assert.equal(given.values, (await edmOf(other!)).values);
  assert.not.equal(fresh.values, taught.values);

  const ict = await start('fashion-mnist-ict', ['net_config.nf=8', 'net_config.attn_resolutions=[]']);
  const ratio = ict.waves.map((w, i) => w / fresh.waves[i]!);
  assert.ok(
    ratio.every((r) => Math.abs(r - 0.02 / 16) < 1e-6),
    `standard deviations of 0.02 and 16: ${ratio}`,
  );
  wrong('fashion-mnist-ict', ['net_config.fourier_scale=fine'], /fourier_scale must be above 0, got "fine"/);
});

test('images of a folder are decoded when they are needed; a damaged one costs nothing that was done', async () => {
  const data = join(folder, 'photos');
  const random = lcg(2);
  const dot = () =>
    encodePng({
      width: 8,
      height: 8,
      channels: 3,
      data: Uint8Array.from({ length: 192 }, () => 127 * (1 + random())),
    });
  for (const split of ['train', 'val'])
    for (const name of ['cat', 'dog'])
      for (let i = 0; i < 3; i++) {
        mkdirSync(join(data, split, name), { recursive: true });
        writeFileSync(join(data, split, name, `${i}.png`), dot());
      }
  const settings = [
    ...[
      'dataset=image-folder',
      `data=${data}`,
      'sample_every=0',
      'crop=1',
      'batch=2',
      'averages=',
      'steps=3',
      'schedule=constant',
    ],
    'net_config={"depth":10,"widen_factor":1,"image_size":8}',
  ];
  const start = async (out: string, resume = false) => {
    const config = configure('fashion-mnist-wrn', settings);
    const images = await loadTrainingData(config, 8);
    return train(
      await testDevice(),
      config,
      images,
      { out: join(folder, out), resume },
      { onLook: () => {} },
    );
  };
  await start('folder-whole');

  const config = configure('fashion-mnist-wrn', settings);
  const { train: set, classes } = await loadTrainingData(config, 8);
  assert.equal([classes, ...set.shape], [2, 6, 8, 8, 3]);
  const batches = new Batches(set, { batch: 2, seed: 0 });
  await decodeFiles(set, batches.indices(0));
  const decoded = () =>
    Array.from({ length: 6 }, (_, i) => set.images.subarray(192 * i, 192 * (i + 1)).some((v) => v > 0));
  assert.is(decoded().filter(Boolean).length, 2, 'two of six');
  await decodeFiles(set, batches.indices(1));
  const late = decoded().indexOf(false);
  const path = join(data, 'train', ['cat', 'dog'][Math.floor(late / 3)]!, `${late % 3}.png`);

  // A class that has no held-out images would shift the labels of those behind it.
  mkdirSync(join(data, 'train', 'bird'));
  writeFileSync(join(data, 'train', 'bird', '0.png'), dot());
  await refuses(
    loadTrainingData(config, 8),
    /photos: class bird is in train alone; .* \(3 and 2 are there\)/,
  );
  rmSync(join(data, 'train', 'bird'), { recursive: true });

  // Broken, it is met in the third update alone.
  const good = readFileSync(path);
  writeFileSync(path, good.subarray(0, 40));
  await refuses(start('folder'), new RegExp(`${path}: `));
  assert.is(savedRun(join(folder, 'folder', 'checkpoint.safetensors')).step, 2);
  writeFileSync(path, good);
  await start('folder', true);
  assert.ok(bytes('folder', 'weights.safetensors').equals(bytes('folder-whole', 'weights.safetensors')));
});

test.run();
