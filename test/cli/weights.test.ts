/** `cmap weights`: what it prints, what it writes, and what it refuses. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { weightsCommand } from '../../src/cli/weights.ts';
import { InputError } from '../../src/engine/errors.ts';
import { readManifest } from '../../src/formats/manifest.ts';
import { openSafetensors } from '../../src/formats/safetensors.node.ts';
import { encodeSafetensors } from '../../src/formats/safetensors.ts';
import { temporaryFolder } from '../formats/fuzz.ts';
import { root } from '../support.ts';

const fixture = (name: string) => join(root, 'test', 'fixtures', 'formats', name);

/** Runs the command; what it printed, and its refusal if there was one. */
async function weights(...args: string[]): Promise<{ stdout: string; refusal: string }> {
  const write = process.stdout.write;
  let stdout = '';
  let refusal = '';
  process.stdout.write = (text: string | Uint8Array) => {
    stdout += text;
    return true;
  };
  try {
    await weightsCommand().parseAsync([...args, '--quiet'], { from: 'user' });
  } catch (error) {
    assert.instance(error, InputError, String((error as Error).stack));
    refusal = (error as Error).message;
    assert.not.match(refusal, '\n');
  } finally {
    process.stdout.write = write;
  }
  return { stdout, refusal };
}

test('inspect lists tensors, groups and settings', async () => {
  const { stdout } = await weights('inspect', fixture('flax.msgpack'));
  assert.match(stdout, /flax\.msgpack: flax, 9 tensors, 107 numbers/);
  assert.match(stdout, /params_ema\.Conv_0\.kernel +F32 +\[3, 3, 2, 4\]/);
  assert.match(stdout, /params_ema +6 +94\n/);
  assert.match(stdout, /\nema_rate: 0\.75\n/);
  const statistics = await weights('inspect', fixture('flax.msgpack'), '--stats');
  // bias = 0..3 - 1.5: mean 0, variance 1.25.
  assert.match(statistics.stdout, /Conv_0\.bias +F32 +\[4\] +-1\.500 +1\.500 +0\.000 +1\.118 +0\n/);
});

test('inspect as JSON', async () => {
  const { stdout } = await weights('inspect', fixture('torch-zip.pt'), '--json', '--stats');
  const report = JSON.parse(stdout);
  assert.is(report.format, 'torch');
  assert.is(report.tensors.length, 26);
  const u8 = report.tensors.find(({ name }: { name: string }) => name === 'state_dict.module.u8');
  assert.equal(u8, {
    name: 'state_dict.module.u8',
    dtype: 'U8',
    shape: [2],
    elements: 2,
    statistics: { min: 0, max: 255, mean: 127.5, std: 127.5, notFinite: 0, firstNotFinite: -1 },
  });
  assert.equal(report.groups[0], { prefix: 'state_dict', tensors: 22, elements: 130 });
  assert.is(report.metadata.best, '91.75');
});

test('convert writes safetensors, or nothing', async () => {
  const folder = temporaryFolder();
  const out = join(folder, 'deep', 'out.safetensors');
  const { stdout } = await weights(
    'convert',
    fixture('flax.msgpack'),
    out,
    '--prefix',
    'params_ema',
    '--drop',
    '^(large|flags)$',
    '--dtype',
    'f32',
  );
  assert.match(stdout, /out\.safetensors: 4 of 9 tensors of .*flax\.msgpack \(flax\)/);
  const file = openSafetensors(out);
  assert.equal([...file.names].sort(), ['Conv_0.bias', 'Conv_0.kernel', 'GroupNorm_0.scale', 'brain']);
  assert.equal([...file.floats('brain')], [1, -3.140625, 2 ** 100]);
  assert.is(file.type('brain'), 'F32');
  file.close();
  // 2^100 is beyond float16, and is found after others were written.
  const refused = await weights('convert', fixture('flax.msgpack'), join(folder, 'x'), '--dtype', 'f16');
  assert.match(refused.refusal, /"params_ema\.brain" holds .* at position 2, beyond F16/);
  assert.equal(readdirSync(folder), ['deep']);
  assert.not(existsSync(join(folder, 'x')));
  const none = await weights('convert', fixture('flax.msgpack'), out, '--drop', '.');
  assert.match(none.refusal, /no tensor that --drop \. leaves; it has 9/);
});

test('verify finds what is not finite, and differences', async () => {
  const folder = temporaryFolder();
  const write = (name: string, values: number[], more = {}) => {
    const path = join(folder, name);
    writeFileSync(
      path,
      encodeSafetensors({ a: { shape: [values.length], data: Float32Array.from(values) }, ...more }),
    );
    return path;
  };
  const good = write('good', [1, 2, 4]);
  const bad = write('bad', [1, Number.NaN, 4]);
  const near = write('near', [1, 2, 4.5]);
  const other = write('other', [1, 2], { b: { shape: [], data: Float32Array.of(1) } });
  assert.match((await weights('verify', good)).stdout, /good: safetensors, 1 tensors, 3 numbers, all finite/);
  assert.match(
    (await weights('verify', bad)).refusal,
    /tensor "a" \[3\] holds NaN at position 1; 1 of its 3/,
  );
  const same = await weights('verify', good, '--against', good);
  assert.is(same.refusal, '');
  assert.match(same.stdout, /1 tensors equal those of/);
  const differing = await weights('verify', good, '--against', near);
  assert.match(differing.stdout, /\na +5\.00e-1 +1\.11e-1\n/);
  assert.match(
    differing.refusal,
    /1 of 1 tensors differ from .*near, by up to 5\.00e-1 in "a"; --tolerance allows 0$/,
  );
  assert.is((await weights('verify', good, '--against', near, '--tolerance', '0.5')).refusal, '');
  const against = await weights('verify', good, '--against', bad);
  assert.match(against.refusal, /differ .* by up to Infinity/);
  const shapes = await weights('verify', good, '--against', other);
  assert.match(shapes.refusal, /"b" is missing; "a" is \[3\], not \[2\]/);
  const twins = [fixture('torch-legacy.pth'), '--against', fixture('torch-zip.pt')];
  assert.is((await weights('verify', ...twins)).refusal, '');
});

test('the input is not overwritten, and what holds nothing is not intact', async () => {
  const folder = temporaryFolder();
  const path = join(folder, 'empty.safetensors');
  writeFileSync(path, encodeSafetensors({}));
  const refused = async (args: string[], pattern: RegExp) =>
    assert.match((await weights(...args)).refusal, pattern);
  await refused(['verify', path], /empty\.safetensors: safetensors, holds no tensor/);
  await refused(
    ['convert', path, join(folder, 'x', '..', 'empty.safetensors')],
    /<out> .*: is the file of <in>/,
  );
  await refused(['verify', path, '--tolerance=-1'], /--tolerance must be a number from 0, got -1/);
});

test('verify without a file checks the shipped weights', async () => {
  const { stdout, refusal } = await weights('verify');
  assert.is(refusal, '');
  for (const name of Object.keys(readManifest())) assert.match(stdout, new RegExp(`${name} .*all finite`));
  assert.match((await weights('verify', '--against', 'x')).refusal, /name the file/);
});

test.run();
