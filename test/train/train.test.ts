import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CmapError, InputError } from '../../src/engine/errors.ts';
import { openSafetensors } from '../../src/formats/safetensors.node.ts';
import { ConsistencyModel } from '../../src/nets/consistency.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { configure, presets } from '../../src/train/config.ts';
import { loadTrainingData } from '../../src/train/data.ts';
import { type LogEntry, type TrainHooks, train } from '../../src/train/loop.ts';
import { networkOf } from '../../src/train/session.ts';
import { testDevice } from '../support.ts';

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
    for (const file of ['checkpoint.safetensors', 'weights.safetensors', 'log.jsonl', 'config.json'])
      assert.ok(bytes(killed, file).equals(bytes(`${preset}-whole`, file)), `${file} is the same`);
    assert.equal(
      log(killed).map((entry) => entry.step),
      [1, 2, 3, 4, 5, 6, 7],
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
  const refused = async (promise: Promise<unknown>, message: RegExp) => {
    const error = await promise.then(
      () => null,
      (e: Error) => e,
    );
    assert.ok(error instanceof InputError && message.test(error.message), String(error));
  };
  await refused(
    run('fashion-mnist-edm', [...settings, 'lr=1'], 'stopped', {}, true),
    /trained with lr=0.0015, not 1/,
  );
  await refused(run('fashion-mnist-edm', settings, 'stopped'), /is there already; go on with --resume/);
  await refused(run('fashion-mnist-edm', settings, 'nothing', {}, true), /there is nothing to resume/);
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

test('a loss that is no number names the operation, and the state before it is kept', async () => {
  const error = await run(
    'fashion-mnist-edm',
    [...small, 'steps=8', 'batch=2', 'lr=1e20', 'warmup=0', 'log_every=2'],
    'nan',
  ).then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(error instanceof CmapError, String(error));
  assert.match(
    error!.message,
    /update 2: the loss is (NaN|-?Infinity|\d.*), .* not finite is the result \[2,.*\] of \w+, operation \d+ of \d+; the checkpoint holds/,
  );
  const file = openSafetensors(join(folder, 'nan', 'checkpoint.safetensors'));
  assert.is(file.metadata.step, '1');
  for (const name of file.names) assert.ok((file.read(name) as Float32Array).every(Number.isFinite), name);
  file.close();
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

test('presets are whole and can be built; what is wrong with a setting is said in one line', async () => {
  for (const name of Object.keys(presets)) networkOf(configure(name, []));
  const wrong = (settings: string[], message: RegExp) =>
    assert.throws(
      () => configure('fashion-mnist-edm', settings),
      (e: Error) => e instanceof InputError && message.test(e.message) && !e.message.includes('\n'),
    );
  wrong(['lerning=1'], /there is no setting "lerning"; there are task, dataset/);
  wrong(['lr=fast'], /lr wants a number, got "fast"/);
  wrong(['steps=0'], /steps must be an integer of at least 1, got 0/);
  wrong(['averages=0.9,1'], /averages must be in \[0, 1\), got 1/);
  wrong(['flip=yes'], /flip wants true or false/);
  wrong(['lr'], /"lr" is not KEY=VALUE/);
  wrong(['task=gan'], /task is one of edm, ct/);
  wrong(['accumulate=0'], /accumulate must be an integer of at least 1, got 0/);
  wrong(['dropout=1'], /dropout must be in \[0, 1\), got 1/);
  wrong(['augment=2'], /augment must be in \[0, 1\], got 2/);
  assert.throws(
    () => configure('fashion-mnist-ect', ['augment=0.1']),
    /augment is built for task edm, not ect; set augment=0/,
  );
  assert.throws(
    () => networkOf(configure('cifar10-edm', ['augment=0.1', 'net=adm-imagenet64', 'net_config={}'])),
    /augment is built for NCSN\+\+ and DDPM\+\+, not adm-imagenet64/,
  );
  assert.throws(() => configure('mnist', []), /there is no preset "mnist"; there are fashion-mnist-edm/);
  assert.is(configure('cifar10-wrn', ['attack_eps=8/255']).attack_eps, 8 / 255);
  assert.is(configure('fashion-mnist-edm', ['net_config.nf=32']).net_config.nf, 32);
  const error = await run('cifar10-ct-published', [...small, 'steps=1', 'batch=1'], 'lpips').then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(
    error instanceof InputError && /distance=lpips wants its weights: lpips=BACKBONE,LIN/.test(error.message),
    String(error),
  );
});

test.run();
