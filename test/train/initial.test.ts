/** Starting weights: their distributions, as the published code initialises each kind of layer. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { adm } from '../../src/nets/adm.ts';
import { ncsnpp } from '../../src/nets/ncsnpp.ts';
import type { ParameterShapes } from '../../src/nets/parameters.ts';
import { wideResNet } from '../../src/nets/wide-resnet.ts';
import { initialWeights } from '../../src/train/initial.ts';

const test = suite('initial weights');

const networks = {
  ncsnpp: ncsnpp({ image_size: 8, nf: 32, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4] }),
  adm: adm({
    image_size: 8,
    num_channels: 32,
    num_res_blocks: 1,
    channel_mult: [1, 2],
    attention_resolutions: [4],
  }),
  wide_resnet: wideResNet({ depth: 10, widen_factor: 2 }),
};
const drawn = (family: keyof typeof networks, seed = 1) => {
  const declared: ParameterShapes = networks[family].parameters;
  return { declared, source: initialWeights(declared, { family, seed, fourierScale: 16 }) };
};

/** Greatest magnitude and root mean square. */
function size(values: Float32Array) {
  let [most, square] = [0, 0];
  for (const v of values) {
    most = Math.max(most, Math.abs(v));
    square += v * v;
  }
  return { most, rms: Math.sqrt(square / values.length) };
}

/** Uniform in ± `bound`: not beyond, near it, and of its variance. */
function assertUniform(values: Float32Array, bound: number, name: string) {
  const { most, rms } = size(values);
  assert.ok(most <= bound * (1 + 1e-6), `${name}: ${most} > ${bound}`);
  const spread = 4 / Math.sqrt(values.length);
  assert.ok(
    Math.abs(rms / (bound / Math.sqrt(3)) - 1) < spread,
    `${name}: rms ${rms} for a bound of ${bound}`,
  );
}

test('ADM: PyTorch’s defaults, ends of branches at zero', () => {
  const { declared, source } = drawn('adm');
  const kinds = { weight: 0, bias: 0, zero: 0, one: 0 };
  for (const [name, { file }] of declared) {
    const values = source.floats(name) as Float32Array;
    assert.is(
      values.length,
      file.reduce((p, q) => p * q, 1),
    );
    const [weight] = name.endsWith('bias')
      ? [declared.get(name.replace(/bias$/, 'weight'))?.file ?? []]
      : [file];
    const norm = weight.length === 1;
    const ends = /(out_layers\.3|proj_out|^out\.2)\.(weight|bias)$/.test(name);
    if (ends || (norm && name.endsWith('bias'))) {
      assert.is(size(values).most, 0, name);
      kinds.zero++;
    } else if (norm) {
      assert.ok(
        values.every((v) => v === 1),
        name,
      );
      kinds.one++;
    } else {
      // Files are [out, in, …].
      assertUniform(values, 1 / Math.sqrt(weight.slice(1).reduce((p, q) => p * q, 1)), name);
      kinds[name.endsWith('bias') ? 'bias' : 'weight']++;
    }
  }
  assert.ok(
    Object.values(kinds).every((count) => count >= 8),
    JSON.stringify(kinds),
  );
});

test('NCSN++: variance scaling by the mean of the fans, biases zero, ends of branches nearly so', () => {
  const { declared, source } = drawn('ncsnpp');
  const floats = (name: string) => source.floats(name) as Float32Array;
  // Kernels are HWIO in the file, 9·32 in and 9·32 out.
  assert.equal(declared.get('ResnetBlockBigGANpp_0.Conv_0.kernel')?.file, [3, 3, 32, 32]);
  assertUniform(floats('ResnetBlockBigGANpp_0.Conv_0.kernel'), Math.sqrt(3 / (9 * 32)), 'Conv_0');
  assertUniform(floats('ResnetBlockBigGANpp_0.Conv_1.kernel'), Math.sqrt(3e-10 / (9 * 32)), 'Conv_1');
  assertUniform(floats('ResnetBlockBigGANpp_0.Dense_0.kernel'), Math.sqrt(3 / ((128 + 32) / 2)), 'Dense_0');
  assertUniform(floats('AttnBlockpp_0.NIN_0.W'), Math.sqrt(0.3 / 64), 'NIN_0');
  assert.is(size(floats('ResnetBlockBigGANpp_0.Conv_0.bias')).most, 0);
  assert.ok(floats('ResnetBlockBigGANpp_0.GroupNorm_0.scale').every((v) => v === 1));
  const { rms } = size(floats('GaussianFourierProjection_0.W'));
  assert.ok(Math.abs(rms / 16 - 1) < 0.4, `frequencies of rms ${rms}`);
});

test('WideResNet: He’s by the outputs, running variances at one', () => {
  const { declared, source } = drawn('wide_resnet');
  for (const [name, { file, statistic }] of declared) {
    const values = source.floats(name) as Float32Array;
    if (file.length === 4) {
      const want = Math.sqrt(2 / ((file[0] as number) * (file[2] as number) * (file[3] as number)));
      const { rms } = size(values);
      assert.ok(Math.abs(rms / want - 1) < 4 / Math.sqrt(values.length), `${name}: rms ${rms}, He's ${want}`);
    } else if (statistic)
      assert.ok(
        values.every((v) => v === (name.endsWith('var') ? 1 : 0)),
        name,
      );
    else if (file.length === 1 && name.endsWith('bias')) assert.is(size(values).most, 0, name);
  }
});

test('a tensor depends on the seed and on its name, not on its place', () => {
  const name = 'ResnetBlockBigGANpp_0.Conv_0.kernel';
  const [one, two] = [drawn('ncsnpp', 1).source.floats(name), drawn('ncsnpp', 2).source.floats(name)];
  assert.not.equal(one, two);
  const alone: ParameterShapes = new Map([...drawn('ncsnpp').declared].filter(([key]) => key === name));
  assert.equal(initialWeights(alone, { family: 'ncsnpp', seed: 1 }).floats(name), one);
  assert.not.equal(one, drawn('ncsnpp', 1).source.floats('ResnetBlockBigGANpp_1.Conv_0.kernel'));
});

test.run();
