/** How a network's tensors are found in a checkpoint: prefixes, moving averages, PyTorch's module numbers. */
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import { bindParameters, type Parameter, permuted, type TensorSource } from '../../src/nets/parameters.ts';
import { network } from '../../src/nets/registry.ts';
import { loadFixture, root, testDevice } from '../support.ts';
import { parity, syntheticCheckpoint } from './parity.ts';

/** A file that holds the given tensors, each filled with its number. */
function file(tensors: Record<string, readonly number[]>): TensorSource {
  const names = Object.keys(tensors);
  const size = (name: string) => (tensors[name] as number[]).reduce((a, b) => a * b, 1);
  return {
    label: 'file.pt',
    names,
    shape: (name) => tensors[name] as number[],
    floats: (name) => new Float32Array(size(name)).fill(names.indexOf(name)),
  };
}

const declared = new Map<string, Parameter>([
  ['conv.weight', { shape: [1, 1, 2, 3], file: [3, 2, 1, 1], axes: [2, 3, 1, 0] }],
  ['conv.bias', { shape: [3], file: [3] }],
]);
const own = { 'conv.weight': [3, 2, 1, 1], 'conv.bias': [3] };
const under = (prefix: string) =>
  Object.fromEntries(Object.entries(own).map(([name, shape]) => [prefix + name, shape]));

/** Number of the file's tensor that was taken as conv.bias. */
async function taken(tensors: Record<string, readonly number[]>, prefix?: string): Promise<string> {
  const source = file(tensors);
  const device = await testDevice();
  const parameters = bindParameters(device, declared, source, prefix === undefined ? {} : { prefix });
  const [number] = await parameters.get('conv.bias').floats();
  parameters.dispose();
  return source.names[number as number] as string;
}

const fails = async (tensors: Record<string, readonly number[]>, pattern: RegExp, prefix?: string) => {
  try {
    await taken(tensors, prefix);
  } catch (error) {
    assert.instance(error, InputError);
    assert.match((error as Error).message, pattern);
    return;
  }
  assert.unreachable(`accepted; expected ${pattern}`);
};

test('prefixes are found, other tensors ignored', async () => {
  assert.is(await taken(own), 'conv.bias');
  assert.is(await taken(under('module.')), 'module.conv.bias');
  assert.is(
    await taken({
      'optimizer.state.0.exp_avg': [3],
      ...under('state_dict.module.0.'),
      'state_dict.module.0.conv.num_batches_tracked': [],
    }),
    'state_dict.module.0.conv.bias',
  );
});

test('a moving average is taken before the raw weights, optimiser states never', async () => {
  const flax = { ...under('params.'), ...under('target_params.'), ...under('params_ema.') };
  assert.is(await taken(flax), 'params_ema.conv.bias');
  assert.is(await taken(flax, 'params.'), 'params.conv.bias');
  assert.is(await taken({ ...under('opt_state.0.mu.'), ...under('params.') }), 'params.conv.bias');
  await fails(
    { ...under('net.'), ...under('old.') },
    /several copies of the network, under "net." and "old."/,
  );
  await fails(
    { ...under('model.'), ...under('ema_0.9.'), ...under('ema_0.99.') },
    /several copies of the network, under "ema_0.9." and "ema_0.99."; choose one with --prefix/,
  );
  await fails(own, /no tensor of the network lies under the prefix "model\."/, 'model.');
});

test('of an average of the trained parameters alone the rest comes from the copy beside it', async () => {
  const withStatistic = new Map<string, Parameter>([
    ...declared,
    ['norm.running_mean', { shape: [3], file: [3], statistic: true }],
  ]);
  const whole = { ...under('model.'), 'model.norm.running_mean': [3] };
  const source = file({ ...whole, ...under('EMA.') });
  const parameters = bindParameters(await testDevice(), withStatistic, source);
  const name = async (of: string) => source.names[(await parameters.get(of).floats())[0] as number];
  assert.is(await name('conv.bias'), 'EMA.conv.bias');
  assert.is(await name('norm.running_mean'), 'model.norm.running_mean');
  parameters.dispose();
});

test('score_sde keeps its moving average as a list', async () => {
  const lists = { 'ema.shadow_params.0': [3, 2, 1, 1], 'ema.shadow_params.1': [3] };
  assert.is(
    await taken({ ...under('model.module.'), ...lists, 'model.module.sigmas': [1000] }),
    'ema.shadow_params.1',
  );
  await fails(
    { ...under('model.'), 'ema.shadow_params.0': [3] },
    /moving average has 1 tensors that do not match the model's 2/,
  );
  assert.is(await taken({ ...under('model.'), 'ema.shadow_params.0': [3] }, 'model.'), 'model.conv.bias');
});

test('missing, misshapen and unknown tensors are named with both shapes', async () => {
  await fails({ 'm.conv.weight': [3, 2, 1, 1] }, /m\.conv\.bias \[3\] is missing/);
  await fails({ ...under('m.'), 'm.conv.bias': [4] }, /m\.conv\.bias is \[4\], the network wants \[3\]/);
  await fails({ ...under('m.'), 'm.conv.scale': [3] }, /m\.conv\.scale \[3\] is not used/);
  assert.is(
    await taken({ 'conv.weight': [3, 2], 'conv.bias': [3, 1] }),
    'conv.bias',
    'axes of length 1 do not matter',
  );
});

test('PyTorch names of NCSN++ and DDPM++ are those of the reference', () => {
  const known = JSON.parse(readFileSync(`${root}test/fixtures/nets/torch_names.json`, 'utf8')) as Record<
    string,
    Record<string, string>
  >;
  for (const [name, names] of Object.entries(known)) {
    const net = network(name);
    if (net.kind === 'classifier') throw new Error(`${name} is no U-Net`);
    const ours = Object.fromEntries(
      [...net.unet.parameters].map(([canonical, { also }]) => [canonical, also?.name]),
    );
    assert.equal(ours, names);
  }
});

test('a checkpoint in PyTorch names and layouts gives the same network', async () => {
  const device = await testDevice();
  for (const [family, fixture] of [
    ['ncsnpp', 'ncsnpp-tiny'],
    ['ddpmpp', 'ddpmpp-small'],
  ] as const) {
    const config = JSON.parse(loadFixture(`nets/small/${fixture}`).metadata.config as string);
    const net = network(family, config);
    if (net.kind === 'classifier') throw new Error('not a U-Net');
    const canonical = syntheticCheckpoint(net.unet.parameters);
    const torch = new Map<string, { name: string; parameter: Parameter }>();
    for (const [name, parameter] of net.unet.parameters)
      if (parameter.also) torch.set(`model.module.${parameter.also.name}`, { name, parameter });
    const source: TensorSource = {
      label: 'torch',
      names: [...torch.keys()],
      shape: (name) => torch.get(name)?.parameter.also?.file ?? [],
      floats: (full) => {
        const { name, parameter } = torch.get(full) as { name: string; parameter: Parameter };
        const values = canonical.floats(name);
        const axes = parameter.also?.axes;
        if (!axes) return values;
        // The inverse of what loading does.
        return permuted(
          values,
          parameter.file,
          axes.map((_, i) => axes.indexOf(i)),
        );
      },
    };
    for (const { at, y, dx } of await parity(device, `nets/small/${fixture}`, net, { source }))
      assert.ok(y < 1e-4 && dx < 1e-4, `${fixture} at ${at}: ${y} ${dx}`);
  }
});

test('a reduced configuration may carry the settings of training', () => {
  const unet = ncsnpp({ nf: 16, ch_mult: [1, 2], dropout: 0.1, fir_kernel: [1, 3, 3, 1] } as object);
  assert.is(unet.imageShape[0], 32);
});

test.run();
