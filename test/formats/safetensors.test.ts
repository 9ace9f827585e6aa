import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/formats/package-root.ts';
import { openSafetensors, writeSafetensors } from '../../src/formats/safetensors.node.ts';
import { encodeSafetensors, parseSafetensors } from '../../src/formats/safetensors.ts';
import { fuzz, refuses, temporaryFolder } from './fuzz.ts';

const tensors = {
  'b.weight': { shape: [2, 3], data: Float32Array.of(1, -2.5, 3e-8, 4, 5, Number.POSITIVE_INFINITY) },
  'a.half': { shape: [3], data: Float32Array.of(1, 0.333251953125, -65504), type: 'F16' as const },
  'a.bf': { shape: [2], data: Float32Array.of(1, -3.140625), type: 'BF16' as const },
  '7': { shape: [], data: Float64Array.of(Math.PI) },
  'naïve "name"\\': { shape: [2], data: Int32Array.of(-1, 7) },
  u: { shape: [1, 2], data: Uint32Array.of(4294967295, 0) },
  bytes: { shape: [5], data: Uint8Array.of(0, 1, 2, 254, 255) },
  flags: { shape: [2], data: Uint8Array.of(0, 1), type: 'BOOL' as const },
  empty: { shape: [4, 0], data: new Float32Array(0) },
};
const good = encodeSafetensors(tensors, { step: '300', config: '{"nf": 24}' });

/** A file from header text and a number of data bytes. */
function file(header: string, dataBytes = 0): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}
const tensor = (begin: number, end: number, shape = `[${(end - begin) / 4}]`) =>
  `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;

test('what is written is read again, from memory and from disk', () => {
  const folder = temporaryFolder();
  const path = join(folder, 'deep', 'weights.safetensors');
  writeSafetensors(path, tensors, { step: '300', config: '{"nf": 24}' });
  assert.equal(readdirSync(join(folder, 'deep')), ['weights.safetensors']);
  const opened = openSafetensors(path);
  for (const source of [
    parseSafetensors(good, 'good'),
    parseSafetensors(good.buffer as ArrayBuffer, 'good'),
    opened,
  ]) {
    assert.equal({ ...source.metadata }, { step: '300', config: '{"nf": 24}' });
    assert.equal([...source.names].sort(), Object.keys(tensors).sort());
    for (const [name, { shape, data }] of Object.entries(tensors)) {
      assert.equal(source.shape(name), shape);
      assert.equal([...source.floats(name)], [...Float32Array.from(data)]);
      // Doubles are given as floats; all else keeps its own array.
      const kind = data instanceof Float64Array ? Float32Array : data.constructor;
      assert.is(source.read(name).constructor, kind);
    }
    assert.is(source.type('a.bf'), 'BF16');
    assert.not(source.names.includes('c'));
    refuses(() => source.read('c'), source.label, 'no tensor "c"', 'it has 9');
  }
  opened.close();
  refuses(() => opened.read('u'), path, 'closed');
});

test('equal tensors give equal bytes, aligned', () => {
  const backwards = Object.fromEntries(Object.entries(tensors).reverse());
  assert.equal(encodeSafetensors(backwards, { config: '{"nf": 24}', step: '300' }), good);
  assert.is(Number(new DataView(good.buffer).getBigUint64(0, true)) % 8, 0);
  assert.is(parseSafetensors(encodeSafetensors({}), 'none').names.length, 0);
});

test('64-bit integers are exact or refused', () => {
  const bytes = file('{"n":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}', 16);
  const view = new DataView(bytes.buffer, bytes.length - 16);
  view.setBigInt64(0, -(2n ** 53n) + 1n, true);
  assert.equal([...parseSafetensors(bytes, 'f').read('n')], [-(2 ** 53) + 1, 0]);
  view.setBigInt64(8, 2n ** 53n, true);
  refuses(() => parseSafetensors(bytes, 'f').read('n'), 'f: tensor "n"', '9007199254740992 at position 1');
});

test('bad files are refused with their numbers', () => {
  const parse = (bytes: Uint8Array) => () => parseSafetensors(bytes, 'f.st');
  const header = (text: string, ...parts: string[]) => refuses(parse(file(text, 8)), 'f.st: ', ...parts);
  refuses(parse(new Uint8Array(3)), 'truncated', 'at least 8 bytes', 'has 3');
  refuses(parse(good.subarray(0, 40)), 'truncated', 'the file has 40');
  refuses(
    parse(good.subarray(0, good.length - 1)),
    'truncated',
    String(good.length),
    String(good.length - 1),
  );
  refuses(
    parse(new Uint8Array(64).fill(0xff)),
    'not a safetensors file',
    'header of 18446744073709552000 bytes',
  );
  header('[]', 'does not begin with "{"');
  header('{"a":', 'not valid JSON');
  header(`{"a":${tensor(0, 8)},}`, 'not valid JSON');
  refuses(parse(new Uint8Array([2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0xff])), 'UTF-8');
  header(`{"a":${tensor(0, 8)},"\\u0061":${tensor(8, 8)}}`, '"a" twice');
  header('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', '"dtype" twice');
  header(`{"a":${'['.repeat(20)}${']'.repeat(20)}}`, 'nests more than 16');
  header('{"a":[1]}', 'tensor "a" is not described');
  header('{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', 'dtype "F8_E4M3"', 'BF16');
  header('{"a":{"dtype":"constructor","shape":[8],"data_offsets":[0,8]}}', 'dtype "constructor"');
  for (const shape of ['[-2]', '[1.5]', '["2"]', '2', 'null', '[1e300]', '[[2]]'])
    header(`{"a":${tensor(0, 8, shape)}}`, 'has shape');
  header(`{"a":${tensor(0, 8, '[9007199254740991,9007199254740991]')}}`, 'needs 3.', 'hold 8');
  header(
    `{"a":${tensor(0, 8, `[${Array(200).fill('9007199254740991').join()},1]`)}}`,
    'needs Infinity bytes',
  );
  header(`{"a":${tensor(0, 8, '[3]')}}`, '[3]', 'needs 12 bytes', 'hold 8');
  header(`{"a":${tensor(8, 0, '[2]')}}`, 'data_offsets [8,0]');
  header(`{"a":${tensor(4, 12)}}`, 'truncated', 'tensors need', 'the file has');
  header(`{"a":${tensor(0, 8)},"b":${tensor(4, 8)}}`, '"b" begins', 'overlap');
  header(`{"a":${tensor(4, 8)}}`, 'unused bytes');
  header(`{"a":${tensor(0, 4)}}`, '4 bytes after the last tensor');
  header('{"__metadata__":{"a":1}}', '__metadata__ "a" is not a string');
  header('{"__metadata__":"a"}', '__metadata__ is not an object');
});

test('bad files on disk are named', () => {
  const folder = temporaryFolder();
  const path = join(folder, 'cut.safetensors');
  writeFileSync(path, good.subarray(0, good.length - 5));
  refuses(() => openSafetensors(path), path, 'truncated', `${good.length}`, `${good.length - 5}`);
  refuses(() => openSafetensors(join(folder, 'none')), join(folder, 'none'), 'no such file');
  refuses(() => openSafetensors(folder), folder, 'folder');
});

test('tensors that do not fit cannot be written', () => {
  refuses(
    () => encodeSafetensors({ a: { shape: [2], data: new Float32Array(3) } }),
    '"a"',
    '[2]',
    '3 numbers',
  );
  refuses(
    () => encodeSafetensors({ a: { shape: [1], data: new Int32Array(1), type: 'F16' } }),
    '"a"',
    'I32',
    'F16',
  );
  refuses(() => encodeSafetensors({ __metadata__: { shape: [1], data: new Int32Array(1) } }), '__metadata__');
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), '');
  refuses(
    () => writeSafetensors(join(folder, 'file', 'x'), tensors),
    join(folder, 'file', 'x'),
    'cannot write',
  );
  assert.not(existsSync(join(folder, 'x')));
});

test('names of the language itself are ordinary names', () => {
  const source = parseSafetensors(
    file(`{"__proto__":${tensor(0, 8)},"__metadata__":{"__proto__":"x"}}`, 8),
    'f',
  );
  assert.equal(source.shape('__proto__'), [2]);
  assert.equal(Object.keys(source.metadata), ['__proto__']);
  refuses(() => source.read('constructor'), 'no tensor');
});

test('files of another writer are read', () => {
  const folder = join(packageRoot(), 'test', 'fixtures');
  const files = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
  assert.ok(files.length > 0);
  for (const file of files) {
    const source = parseSafetensors(readFileSync(join(folder, file)), file);
    assert.ok(source.names.length > 0);
    for (const name of source.names) source.read(name);
  }
});

test('damaged files are read or refused', () => {
  const headerEnd = 8 + Number(new DataView(good.buffer).getBigUint64(0, true));
  const read = (bytes: Uint8Array) => {
    const source = parseSafetensors(bytes, 'fuzz');
    for (const name of source.names) assert.ok(source.read(name).byteLength <= 4 * bytes.length);
  };
  fuzz(good, read, headerEnd, 800);
});

test.run();
