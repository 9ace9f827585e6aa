import { gzipSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { unpackIdx } from '../../src/formats/idx.node.ts';
import { parseIdx } from '../../src/formats/idx.ts';
import { fuzz, refuses } from './fuzz.ts';

const good = Uint8Array.of(0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255);

test('bytes, plain and gzipped', () => {
  const wanted = { shape: [2, 1, 3], data: Uint8Array.of(1, 2, 3, 4, 5, 255) };
  assert.equal(parseIdx(good, 'a'), wanted);
  assert.equal(parseIdx(unpackIdx(gzipSync(good), 'a'), 'a'), wanted);
});

test('wider types are big-endian', () => {
  const header = (type: number) => [0, 0, type, 1, 0, 0, 0, 2];
  assert.equal(parseIdx(Uint8Array.of(...header(11), 0xff, 0xfe, 1, 0), 'a').data, Int16Array.of(-2, 256));
  assert.equal(
    parseIdx(Uint8Array.of(...header(13), 0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0), 'a').data,
    Float32Array.of(1, -2),
  );
});

test('bad files are refused with their numbers', () => {
  const parse = (bytes: Uint8Array) => () => parseIdx(unpackIdx(bytes, 'f.idx'), 'f.idx');
  refuses(parse(good.subarray(0, 2)), 'f.idx', 'truncated', 'has 2');
  refuses(parse(good.subarray(0, 9)), 'truncated', 'needs 16', 'there are 9');
  refuses(parse(good.subarray(0, 21)), 'truncated', '2 x 1 x 3 of U8', 'need 22', 'there are 21');
  refuses(parse(Uint8Array.of(...good, 0)), 'too long', '22', '23');
  refuses(parse(good.with(2, 10)), 'not an IDX file', '00 00 0a 03');
  refuses(parse(good.fill(0xff, 4, 4).with(4, 0xff)), 'truncated', '4278190082 x 1 x 3');
  const packed = gzipSync(good);
  refuses(parse(packed.subarray(0, packed.length - 9)), 'damaged gzip', String(packed.length - 9));
  refuses(parse(Uint8Array.of(0x1f, 0x8b, 9)), 'damaged gzip');
});

test('damaged files are read or refused', () => {
  fuzz(good, (bytes) => parseIdx(bytes, 'fuzz'), 20);
  fuzz(gzipSync(good), (bytes) => parseIdx(unpackIdx(bytes, 'fuzz'), 'fuzz'), 40);
});

test.run();
