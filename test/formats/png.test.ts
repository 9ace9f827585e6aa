import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type Image,
  imageFromFloats,
  imageToFloats,
  toGray,
  toRgb,
  upscale,
} from '../../src/formats/image.ts';
import { decodePng, encodePng, readPng, writePng } from '../../src/formats/png.ts';
import { fuzz, numbers, refuses, temporaryFolder } from './fuzz.ts';

function chunk(type: string, data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(12 + data.length);
  bytes.writeUInt32BE(data.length, 0);
  bytes.write(type, 4, 'latin1');
  bytes.set(data, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, 8 + data.length)), 8 + data.length);
  return bytes;
}

interface Parts {
  width: number;
  height: number;
  depth: number;
  colour: number;
  interlace?: number;
  /** Rows, each with its filter byte. */
  rows: Uint8Array;
  before?: Buffer[];
}

/** A PNG put together by hand. */
function png({ width, height, depth, colour, interlace = 0, rows, before = [] }: Parts): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colour, 0, 0, interlace], 8);
  const signature = Buffer.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10);
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    ...before,
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

const random = numbers(1);
const image = (width: number, height: number, channels: 1 | 3): Image => ({
  width,
  height,
  channels,
  data: Uint8Array.from({ length: width * height * channels }, () => random() * 256),
});

test('what is written is read again', () => {
  const folder = temporaryFolder();
  for (const channels of [1, 3] as const) {
    const original = image(13, 7, channels);
    const path = join(folder, `${channels}.png`);
    writePng(path, original);
    assert.equal(readPng(path), { ...original, transparent: false });
    assert.equal(encodePng(original), encodePng(original));
  }
});

test('16 bits are rounded to 8', () => {
  const rows = Uint8Array.of(0, 0, 0, 0x80, 0x7f, 0x80, 0x81, 0xff, 0xff);
  const decoded = decodePng(png({ width: 4, height: 1, depth: 16, colour: 0, rows }), 'a');
  assert.equal(decoded, {
    width: 4,
    height: 1,
    channels: 1,
    data: Uint8Array.of(0, 128, 128, 255),
    transparent: false,
  });
});

test('one bit and palettes', () => {
  const bits = decodePng(
    png({ width: 3, height: 2, depth: 1, colour: 0, rows: Uint8Array.of(0, 0xa0, 0, 0x40) }),
    'a',
  );
  assert.equal(bits.data, Uint8Array.of(255, 0, 255, 0, 255, 0));
  const before = [chunk('PLTE', Uint8Array.of(1, 2, 3, 250, 251, 252))];
  const palette = decodePng(
    png({ width: 2, height: 1, depth: 8, colour: 3, rows: Uint8Array.of(0, 1, 0), before }),
    'a',
  );
  assert.equal([palette.channels, ...palette.data], [3, 250, 251, 252, 1, 2, 3]);
});

test('what is transparent is laid over white', () => {
  const gray = decodePng(
    png({ width: 3, height: 1, depth: 8, colour: 4, rows: Uint8Array.of(0, 10, 255, 10, 0, 0, 128) }),
    'a',
  );
  assert.equal(gray, {
    width: 3,
    height: 1,
    channels: 1,
    data: Uint8Array.of(10, 255, 127),
    transparent: true,
  });
  const rgb = decodePng(
    png({ width: 1, height: 1, depth: 8, colour: 6, rows: Uint8Array.of(0, 1, 2, 3, 255) }),
    'a',
  );
  assert.equal([rgb.transparent, ...rgb.data], [false, 1, 2, 3]);
});

test('interlaced', () => {
  // 2 x 2: passes 1, 6 and 7 hold (0,0), (1,0) and the lower row.
  const rows = Uint8Array.of(0, 11, 0, 22, 0, 33, 44);
  assert.equal(
    decodePng(png({ width: 2, height: 2, depth: 8, colour: 0, interlace: 1, rows }), 'a').data,
    Uint8Array.of(11, 22, 33, 44),
  );
});

test('bad files are refused with their numbers', () => {
  const decode = (bytes: Uint8Array) => () => decodePng(bytes, 'f.png');
  const good = encodePng(image(20, 10, 3));
  refuses(decode(Buffer.from('hello')), 'f.png', 'not a PNG');
  refuses(decode(new Uint8Array(0)), 'not a PNG');
  refuses(decode(Uint8Array.of(0xff, 0xd8, 0xff, 0xe0, 0, 0, 0, 0, 0)), 'not a PNG but a JPEG');
  refuses(decode(good.subarray(0, 20)), 'truncated', 'has 20');
  refuses(
    decode(good.subarray(0, good.length - 1)),
    'truncated',
    String(good.length),
    String(good.length - 1),
  );
  refuses(decode(good.subarray(0, 100)), 'truncated', 'chunk IDAT needs', 'has 100');
  const damaged = good.slice();
  damaged[60]! ^= 1;
  refuses(decode(damaged), 'damaged PNG');
  // Of a chunk that a damaged name makes unknown only the checksum tells.
  const clear = png({
    ...{ width: 1, height: 1, depth: 8, colour: 3, rows: new Uint8Array(2) },
    before: [chunk('PLTE', new Uint8Array(3)), chunk('tRNS', new Uint8Array(1))],
  });
  clear[Buffer.from(clear).indexOf('tRNS') + 3] = 0x54;
  refuses(decode(clear), 'damaged PNG: chunk "tRNT"', 'another CRC-32');
  refuses(
    decode(png({ width: 5000, height: 5000, depth: 8, colour: 0, rows: new Uint8Array(1) })),
    '5000 x 5000 = 25000000',
    '16777216',
  );
  refuses(decode(png({ width: 0, height: 5, depth: 8, colour: 0, rows: new Uint8Array(1) })), '0 x 5');
  refuses(
    decode(png({ width: 4, height: 4, depth: 8, colour: 0, rows: new Uint8Array(19) })),
    'truncated',
    'need 20',
    'has 19',
  );
  refuses(
    decode(png({ width: 4, height: 4, depth: 8, colour: 5, rows: new Uint8Array(20) })),
    'colour type 5',
  );
  // Megabytes behind an image of one pixel, interlaced or not.
  for (const interlace of [0, 1]) {
    const bomb = png({ width: 1, height: 1, depth: 8, colour: 0, interlace, rows: new Uint8Array(1e6) });
    refuses(decode(bomb), 'more than the 2 bytes of 1 x 1');
  }
  const path = join(temporaryFolder(), 'text.png');
  writeFileSync(path, 'just text');
  refuses(() => readPng(path), path, 'not a PNG');
  refuses(() => readPng(`${path}.none`), 'no such file');
});

test('damaged files are read or refused', () => {
  fuzz(encodePng(image(9, 5, 3)), (bytes) => decodePng(bytes, 'fuzz'), 200, 300);
  // With checksums set right again, damage reaches the decoder behind them.
  const source = png({
    width: 6,
    height: 6,
    depth: 8,
    colour: 3,
    interlace: 1,
    rows: new Uint8Array(60),
    before: [chunk('PLTE', new Uint8Array(6)), chunk('tRNS', new Uint8Array(2))],
  });
  const repaired = (bytes: Uint8Array) => {
    const file = Buffer.from(bytes);
    for (let at = 8; at + 12 <= file.length; ) {
      const length = file.readUInt32BE(at);
      if (at + 12 + length > file.length) break;
      file.writeUInt32BE(crc32(file.subarray(at + 4, at + 8 + length)), at + 8 + length);
      at += 12 + length;
    }
    return file;
  };
  fuzz(source, (bytes) => decodePng(repaired(bytes), 'fuzz'), source.length, 600);
});

test('floats, gray and enlargement', () => {
  const floats = Float32Array.of(0, 0.5, 1, -1, 2, Number.NaN, 1 / 255, 0.2);
  const rounded = imageFromFloats(floats, 2, 4, 1);
  assert.equal([...rounded.data], [0, 128, 255, 0, 255, 0, 1, 51]);
  assert.equal([...imageFromFloats(imageToFloats(image(9, 9, 3)), 9, 9, 3).data].length, 243);
  const bytes = image(16, 16, 1);
  assert.equal(imageFromFloats(imageToFloats(bytes), 16, 16, 1), bytes);
  assert.equal(toGray(toRgb(bytes)), bytes);
  assert.equal(
    [...upscale({ width: 2, height: 1, channels: 3, data: Uint8Array.of(1, 2, 3, 4, 5, 6) }, 2).data],
    [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
  );
});

test.run();
