import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readCheckpoint } from '../../src/formats/checkpoint.ts';
import { root } from '../support.ts';
import { fuzzAsync, opened, refusesAsync } from './fuzz.ts';

const text = (s: string) => Buffer.concat([Buffer.of(0xa0 + s.length), Buffer.from(s)]);
const join_ = (...parts: (number | Uint8Array)[]) =>
  Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.of(part) : part)));
const bytes = (data: Uint8Array) => join_(0xc4, data.length, data);
const extension = (code: number, payload: Uint8Array) => join_(0xc7, payload.length, code, payload);
const array = (shape: number[], dtype: string, data: Uint8Array, code = 1) =>
  extension(code, join_(0x93, 0x90 + shape.length, ...shape, text(dtype), bytes(data)));
const map = (fields: Record<string, Uint8Array>) =>
  join_(0x80 + Object.keys(fields).length, ...Object.entries(fields).flatMap(([k, v]) => [text(k), v]));
const two = new Uint8Array(Float32Array.of(1, 2).buffer);

const open = (file: Uint8Array) => readCheckpoint(opened(file), 'f.msgpack');
const refused = (file: Uint8Array, ...parts: string[]) =>
  refusesAsync(() => open(file), 'f.msgpack: ', ...parts);

test('arrays, numbers and every kind of integer', async () => {
  const file = map({
    a: array([2], 'float32', two),
    s: array([], 'float32', two.subarray(4), 3),
    i: join_(
      0x95,
      0xff,
      0xd1,
      0xff,
      0x00,
      0xd2,
      0x80,
      0,
      0,
      0,
      0xcf,
      0,
      0x1f,
      ...Array(6).fill(0xff),
      0xcd,
      1,
      0,
    ),
    big: join_(0xcf, ...Array(8).fill(0xff)),
    raw: bytes(two),
  });
  const checkpoint = await open(file);
  assert.equal([...checkpoint.names], ['a']);
  assert.equal([...checkpoint.floats('a')], [1, 2]);
  assert.equal(
    { ...checkpoint.metadata },
    {
      s: '2',
      i: '[-1, -256, -2147483648, 9007199254740991, 256]',
      big: '18446744073709551615',
      raw: '8 bytes',
    },
  );
});

test('chunks are joined and must fit', async () => {
  const chunked = (shape: Uint8Array, chunks: Uint8Array) =>
    map({ a: map({ __msgpack_chunked_array__: Buffer.of(0xc3), shape, chunks }) });
  const good = chunked(
    join_(0x92, 2, 2),
    join_(0x92, array([2], 'float32', two), array([2], 'float32', two)),
  );
  // The mark has 25 characters, so its length fits the short form of text.
  const checkpoint = await open(good);
  assert.equal(checkpoint.shape('a'), [2, 2]);
  assert.equal([...checkpoint.floats('a')], [1, 2, 1, 2]);
  await refused(
    chunked(join_(0x91, 3), join_(0x91, array([2], 'float32', two))),
    'needs 3 elements',
    'have 2',
  );
  await refused(
    chunked(join_(0x91, 6), join_(0x92, array([2], 'float32', two), array([4], 'float16', two))),
    'of one type',
  );
  await refused(chunked(join_(0x91, 1), join_(0x91, 7)), 'chunked array is not understood');
});

test('bad files are refused with their place', async () => {
  const good = map({ a: array([2], 'float32', two) });
  await refused(good.subarray(0, good.length - 1), 'truncated', 'byte');
  await refused(join_(good, 0), '1 bytes follow its end');
  await refused(map({ a: array([3], 'float32', two) }), 'array "a"', '[3]', 'needs 12 bytes, it has 8');
  await refused(map({ a: array([2], 'complex64', two) }), 'array "a"', '"complex64"', 'bfloat16');
  await refused(map({ a: array([2], 'toString', two) }), '"toString"');
  await refused(map({ a: extension(9, two) }), '"a" is the extension 9');
  await refused(map({ a: extension(1, join_(0xc0)) }), 'no list of sizes');
  await refused(
    map({ a: extension(1, join_(0x93, 0x91, 0xff, text('float32'), bytes(two))) }),
    'no list of sizes',
  );
  await refused(
    map({ a: extension(1, join_(0x93, 0x91, 2, text('float32'), bytes(two), 0)) }),
    '1 bytes follow',
  );
  // The payload claims to be longer than its extension is.
  await refused(
    map({ a: extension(1, join_(0x93, 0x91, 2, text('float32'), 0xc4, 12)), b: bytes(two) }),
    'too late',
  );
  const enormous = join_(0x98, ...Array.from({ length: 8 }, () => join_(0xce, 0xff, 0xff, 0xff, 0xff)));
  await refused(
    map({ a: extension(1, join_(0x93, enormous, text('float32'), bytes(two))) }),
    'bytes, it has 8',
  );
  await refused(join_(0x82, text('a'), 1, text('a'), 2), '"a" is there twice');
  await refused(join_(0x81, 0x90, 1), 'neither text nor a number');
  await refused(
    join_(0x81, text('a'), 0xdd, 0xff, 0xff, 0xff, 0xff),
    '4294967295 objects are to follow, 0 bytes',
  );
  await refused(join_(0x81, text('a'), 0xdf, 0xff, 0xff, 0xff, 0xff), 'objects are to follow');
  await refused(join_(0x81, text('a'), 0xc6, 0xff, 0xff, 0xff, 0xff), 'truncated: 4294967295 bytes');
  await refused(join_(0x81, text('a'), 0xc1), '0xc1');
  await refused(join_(0x81, text('a'), ...Array(200).fill(0x91), 0xc0), 'nests more than 100');
  // Extensions in extensions leave no trace in the path.
  let nest: Uint8Array = join_(0xc0);
  for (let i = 0; i < 3000; i++) nest = extension(2, nest);
  await refused(map({ a: nest }), 'nests more than 100');
  // The dots of two paths meet.
  const clash = map({ a: map({ b: array([2], 'float32', two) }), 'a.b': array([2], 'float32', two) });
  await refused(clash, '"a.b" names two tensors');
});

test('damaged files are read or refused', async () => {
  const good = new Uint8Array(readFileSync(join(root, 'test', 'fixtures', 'formats', 'flax.msgpack')));
  const read = async (file: Uint8Array) => {
    const checkpoint = await readCheckpoint(opened(file), 'fuzz');
    for (const name of checkpoint.names) assert.ok(checkpoint.floats(name).length <= file.length);
  };
  await fuzzAsync(good, read, good.length, 600);
});

test.run();
