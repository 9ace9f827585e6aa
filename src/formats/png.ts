/**
 * PNG through pngjs. The chunks and the size of the pixels are checked first, so that a damaged file is named with
 * its numbers and a small file cannot unfold to gigabytes.
 */
import { constants, crc32, inflateSync } from 'node:zlib';
import { PNG, type PNGOptions } from 'pngjs';
import { InputError } from '../engine/errors.ts';
import { writeFileAtomic } from '../report/files.ts';
import { type Image, maxFile, maxPixels } from './image.ts';
import { readInput } from './read.ts';

const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

export interface DecodedPng extends Image {
  /** Some pixel was transparent; it was laid over white. */
  readonly transparent: boolean;
}

/** Reads a file. @throws InputError */
export function readPng(path: string): DecodedPng {
  return decodePng(readInput(path, maxFile), path);
}

/** True for the first bytes of a PNG file. */
export function isPng(file: Uint8Array): boolean {
  return signature.every((byte, i) => byte === file[i]);
}

/**
 * Any PNG: gray files (with alpha or not) give 1 channel, all others 3; 16-bit samples are rounded to 8. What is
 * transparent is laid over white, as on a page.
 * @param label names the file in errors
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export function decodePng(file: Uint8Array, label: string): DecodedPng {
  const fail = failing(label);
  const { bytes, gray, width, height } = checkChunks(file, fail);
  const rgba = decode(bytes, fail);
  const channels = gray ? 1 : 3;
  const data = new Uint8Array(width * height * channels);
  let transparent = false;
  for (let from = 0, to = 0; to < data.length; from += 4) {
    const alpha = rgba[from + 3] as number;
    transparent ||= alpha < 255;
    for (let c = 0; c < channels; c++) {
      data[to++] = Math.round(((rgba[from + c] as number) * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return { width, height, channels, data, transparent };
}

/**
 * The stored colours of a PNG, whatever its transparency says, as data sets are read: equal to PIL's
 * `convert('RGB')` (gray files give 1 channel here). Of 16-bit samples the upper 8 bits are taken.
 * @throws InputError also for 16-bit gray without alpha, which PIL clips to white
 */
export function decodeOpaquePng(file: Uint8Array, label: string): Image {
  const fail = failing(label);
  const { withoutKey, gray, depth, colour, width, height } = checkChunks(file, fail);
  if (depth === 16 && colour === 0) fail('a PNG of 16-bit gray is not read as data; convert it to 8 bits');
  const rgba = decode(withoutKey(), fail, { skipRescale: depth === 16 });
  const shift = depth === 16 ? 8 : 0;
  const channels = gray ? 1 : 3;
  const data = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; to < data.length; from += 4)
    for (let c = 0; c < channels; c++) data[to++] = (rgba[from + c] as number) >> shift;
  return { width, height, channels, data };
}

type Fail = (problem: string) => never;

function failing(label: string): Fail {
  return (problem) => {
    throw new InputError(`${label}: ${problem}`);
  };
}

/** RGBA of a file whose chunks have been checked. */
function decode(bytes: Buffer, fail: Fail, options: PNGOptions = {}): ArrayLike<number> {
  try {
    return PNG.sync.read(bytes, options).data;
  } catch (error) {
    return fail(`damaged PNG: ${(error as Error).message.split('\n')[0]}`);
  }
}

/** Walks over the chunks and unfolds the pixels, under the limit that the header sets, to count them. */
function checkChunks(bytes: Uint8Array, fail: Fail) {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const begin = file.subarray(0, signature.length);
  if (!signature.every((byte, i) => i >= begin.length || byte === begin[i]) || begin.length === 0) {
    const hint = begin[0] === 0xff && begin[1] === 0xd8 ? ' but a JPEG; convert it to PNG' : '';
    fail(`not a PNG${hint || ': its first bytes are not those of one'}`);
  }
  const ask = (end: number, what: string) => {
    if (end > file.length)
      fail(`truncated: ${what} needs ${end} bytes, the file has ${file.length}; get it again`);
  };
  ask(33, 'a PNG header');
  if (file.readUInt32BE(8) !== 13 || file.toString('latin1', 12, 16) !== 'IHDR')
    fail('damaged PNG: it does not begin with a header');
  const width = file.readUInt32BE(16);
  const height = file.readUInt32BE(20);
  const [depth, colour, , , interlaced] = file.subarray(24, 29) as unknown as [
    number,
    number,
    number,
    number,
    number,
  ];
  if (width === 0 || height === 0) fail(`damaged PNG: ${width} x ${height} pixels`);
  if (width * height > maxPixels) {
    fail(
      `${width} x ${height} = ${width * height} pixels are more than the ${maxPixels} (4096 x 4096) that are read; scale it down`,
    );
  }
  const samples = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[colour];
  if (!samples || ![1, 2, 4, 8, 16].includes(depth))
    return fail(`damaged PNG: colour type ${colour} with ${depth} bits`);

  const pixels: Buffer[] = [];
  const kept: Buffer[] = [file.subarray(0, 8)];
  let at = 8;
  for (let type = ''; type !== 'IEND'; ) {
    ask(at + 12, 'a chunk');
    const length = file.readUInt32BE(at);
    type = file.toString('latin1', at + 4, at + 8);
    ask(at + 12 + length, /^[a-zA-Z]{4}$/.test(type) ? `chunk ${type}` : 'a chunk');
    // pngjs passes over chunks that it does not know, and a damaged name is one.
    if (crc32(file.subarray(at + 4, at + 8 + length)) !== file.readUInt32BE(at + 8 + length))
      fail(
        `damaged PNG: chunk ${JSON.stringify(type)} at byte ${at} has another CRC-32 than it says; get it again`,
      );
    if (type === 'IDAT') pixels.push(file.subarray(at + 8, at + 8 + length));
    // With a palette this chunk holds alphas; else it names a colour, which pngjs would turn to black.
    if (type !== 'tRNS' || colour === 3) kept.push(file.subarray(at, at + 12 + length));
    at += 12 + length;
  }

  const rowBytes = (columns: number) => 1 + Math.ceil((columns * samples * depth) / 8);
  let expected = height * rowBytes(width);
  if (interlaced) {
    expected = 0;
    for (const [x, y, stepX, stepY] of adam7) {
      const columns = Math.ceil((width - x) / stepX);
      const rows = Math.ceil((height - y) / stepY);
      if (columns > 0 && rows > 0) expected += rows * rowBytes(columns);
    }
  }
  let found = 0;
  try {
    // Flushing where the data ends gives the length of what is there even when the end is missing.
    const options = { maxOutputLength: expected + 65536, finishFlush: constants.Z_SYNC_FLUSH };
    found = inflateSync(Buffer.concat(pixels), options).length;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ERR_BUFFER_TOO_LARGE')
      fail(`damaged PNG: its pixels unfold to more than the ${expected} bytes of ${width} x ${height}`);
    fail(`damaged PNG: ${message}`);
  }
  if (found < expected)
    fail(
      `truncated: ${width} x ${height} pixels need ${expected} bytes, the file has ${found}; get it again`,
    );
  const gray = colour === 0 || colour === 4;
  return { bytes: file, withoutKey: () => Buffer.concat(kept), width, height, depth, colour, gray };
}

/** The seven passes of an interlaced image: first column, first row, steps. */
const adam7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;

/** The bytes of a gray or RGB file of 8 bits. Equal images give equal bytes. */
export function encodePng({ width, height, channels, data }: Image): Uint8Array {
  if (data.length !== width * height * channels) {
    throw new RangeError(`PNG: ${width} x ${height} x ${channels} does not hold ${data.length} bytes`);
  }
  const colorType = channels === 1 ? 0 : 2;
  const png = new PNG({ width, height });
  png.data = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return PNG.sync.write(png, { colorType, inputColorType: colorType, inputHasAlpha: false, bitDepth: 8 });
}

/** Writes a file whole or not at all. @throws InputError */
export function writePng(path: string, image: Image): void {
  writeFileAtomic(path, encodePng(image));
}
