import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { HostArray } from '../../src/formats/array.ts';
import { encodeNpy, parseNpy, readNpy, writeNpy } from '../../src/formats/npy.ts';
import { fuzz, refuses, temporaryFolder } from './fuzz.ts';

/** A file with this header text, of format version 1. */
function file(header: string, dataBytes = 0): Uint8Array {
  const bytes = new Uint8Array(10 + header.length + dataBytes);
  bytes.set([0x93, ...Buffer.from('NUMPY'), 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(Buffer.from(header, 'latin1'), 10);
  return bytes;
}

test('what is written is read again', () => {
  const arrays: HostArray[] = [
    { shape: [2, 3], data: Float32Array.of(1, -2, 3e-9, 4, 5, 6) },
    { shape: [], data: Float64Array.of(Math.PI) },
    { shape: [3], data: Int32Array.of(-1, 0, 2 ** 31 - 1) },
    { shape: [2, 0, 4], data: new Uint8Array(0) },
  ];
  for (const array of arrays) {
    const bytes = encodeNpy(array);
    assert.is((bytes.length - array.data.byteLength) % 64, 0);
    assert.equal(parseNpy(bytes, 'a'), array);
  }
  const path = join(temporaryFolder(), 'a.npy');
  writeNpy(path, { shape: [3], data: Uint8Array.of(0, 1, 1) }, 'BOOL');
  assert.equal(readNpy(path), { shape: [3], data: Uint8Array.of(0, 1, 1) });
});

test('a shape too long for version 1 is written as version 2', () => {
  const shape = Array<number>(30000).fill(1);
  const bytes = encodeNpy({ shape, data: Float32Array.of(7) });
  assert.is(bytes[6], 2);
  assert.equal(parseNpy(bytes, 'a'), { shape, data: Float32Array.of(7) });
});

test('a Fortran-ordered file of NumPy is turned', () => {
  const text =
    'k05VTVBZAQB2AHsnZGVzY3InOiAnPGk0JywgJ2ZvcnRyYW5fb3JkZXInOiBUcnVlLCAnc2hhcGUnOiAoMiwgMyksIH0gICAgICAgICAgICAgICAg' +
    'ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAAAAwAAAAEAAAAEAAAAAgAAAAUAAAA=';
  assert.equal(parseNpy(Buffer.from(text, 'base64'), 'a'), {
    shape: [2, 3],
    data: Int32Array.of(0, 1, 2, 3, 4, 5),
  });
});

test('64-bit integers and halves are read', () => {
  const long = file("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }\n", 8);
  long[long.length - 8] = 9;
  assert.equal(parseNpy(long, 'a').data, Float64Array.of(9));
  const half = file("{'shape': (1,), 'fortran_order': False, 'descr': '<f2'}", 2);
  half[half.length - 1] = 0x3c;
  assert.equal(parseNpy(half, 'a').data, Float32Array.of(1));
});

test('bad files are refused with their numbers', () => {
  const good = encodeNpy({ shape: [5], data: new Float32Array(5) });
  const parse = (bytes: Uint8Array) => () => parseNpy(bytes, 'f.npy');
  const header = (text: string, ...parts: string[]) => refuses(parse(file(text, 8)), 'f.npy: ', ...parts);
  refuses(parse(good.subarray(0, 4)), 'truncated', 'has 4');
  refuses(parse(good.subarray(0, 30)), 'truncated', 'the header needs 128', 'has 30');
  refuses(parse(good.subarray(0, 147)), 'truncated', '<f4 of shape (5)', 'needs 148', 'has 147');
  refuses(parse(Uint8Array.of(...good, 0)), 'too long', '148', '149');
  refuses(parse(new Uint8Array(64)), 'not a .npy file');
  refuses(parse(good.with(6, 9)), 'version 9.0');
  header("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 'dtype >f4', 'astype');
  for (const tuple of ['(1 2)', '(,)', '(2)', '(2,,)', '(2', '2,)'])
    header(`{'descr': '<f4', 'fortran_order': False, 'shape': ${tuple}, }`, 'not understood');
  // A test by one expression took minutes here.
  const gap = ' '.repeat(60_000);
  header(`{'descr': '<f4', 'fortran_order': False, 'shape': (1${gap}1,), }`, 'not understood');
  header("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 'dtype |O');
  header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 'not understood');
  header("{'descr': '<f4', 'fortran_order': False, 'shape': (2), }", 'not understood');
  header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", 'not understood');
  header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'shape': (2,)}", 'twice');
  header("{'descr': '<f4', 'shape': (2,), }", 'not understood');
  header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 'beyond 2^53');
  header(
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9007199254740991, 9007199254740991), }",
    'needs 3.2',
  );
  refuses(() => encodeNpy({ shape: [2], data: new Float32Array(3) }), '(2)', '3 numbers');
  const path = join(temporaryFolder(), 'x.npy');
  writeFileSync(path, 'hello world, this is text');
  refuses(() => readNpy(path), path, 'not a .npy file');
  refuses(() => readNpy(`${path}.none`), `${path}.none`, 'no such file');
});

test('damaged files are read or refused', () => {
  const good = encodeNpy({ shape: [2, 3, 4], data: new Float32Array(24) });
  fuzz(good, (bytes) => assert.ok(parseNpy(bytes, 'fuzz').data.byteLength <= 4 * bytes.length), 90);
});

test.run();
