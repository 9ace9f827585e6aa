/**
 * JPEG through mozjpeg, as WebAssembly: one package for every platform, no native code. Its pixels equal those of
 * libjpeg-turbo, which PIL uses. The headers are read first, so that a file is refused with its numbers and a small
 * one cannot unfold to gigabytes. The orientation that a camera noted is ignored, as PIL's `Image.open` ignores it.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import createDecoder, { type MozJPEGModule } from '@jsquash/jpeg/codec/dec/mozjpeg_dec.js';
import { InputError } from '../engine/errors.ts';
import { type Image, maxFile, maxPixels } from './image.ts';
import { readInput } from './read.ts';

interface Decoder {
  readonly module: MozJPEGModule;
  /** What the library has written to its stderr. */
  readonly said: string[];
}

let ready: Promise<Decoder> | undefined;

async function load(): Promise<Decoder> {
  const require = createRequire(import.meta.url);
  const wasm = readFileSync(require.resolve('@jsquash/jpeg/codec/dec/mozjpeg_dec.wasm'));
  const said: string[] = [];
  const say = (line: string) => {
    said.push(line);
  };
  // The package declares only some of the options that its Emscripten module takes.
  const options = { wasmBinary: wasm, noInitialRun: true, print: say, printErr: say };
  return { module: await createDecoder(options as Parameters<typeof createDecoder>[0]), said };
}

/** True for the first bytes of a JPEG file. */
export function isJpeg(file: Uint8Array): boolean {
  return file[0] === 0xff && file[1] === 0xd8 && file[2] === 0xff;
}

/** Reads a file. @throws InputError */
export async function readJpeg(path: string): Promise<Image> {
  return decodeJpeg(readInput(path, maxFile), path);
}

/**
 * Sequential or progressive, 8 bits, gray (1 channel) or colour (3).
 * @param label names the file in errors
 * @throws InputError saying in one line what is wrong, with the numbers
 */
export async function decodeJpeg(file: Uint8Array, label: string): Promise<Image> {
  const fail = (problem: string): never => {
    throw new InputError(`${label}: ${problem}`);
  };
  const { width, height, channels } = checkHeaders(file, fail);
  ready ??= load();
  const { module, said } = await ready;
  said.length = 0;
  let rgba: Uint8ClampedArray | undefined;
  try {
    // Memory of its own: the library would take the whole buffer below a view.
    const decoded = module.decode(Uint8Array.from(file), false);
    if (decoded && decoded.width === width && decoded.height === height) rgba = decoded.data;
  } catch {
    // It ends its program, and what it had allocated is lost: the next file gets a new one.
    ready = undefined;
  }
  if (said.some((line) => line.startsWith('Premature end')))
    fail(`truncated: ${width} x ${height} pixels need more than its ${file.length} bytes; get it again`);
  if (!rgba) return fail(`damaged JPEG: ${said[0]?.trim() || 'it cannot be decoded'}`);
  const data = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; to < data.length; from += 4)
    for (let c = 0; c < channels; c++) data[to++] = rgba[from + c] as number;
  return { width, height, channels, data };
}

/** Walks over the segments to the first frame header. */
function checkHeaders(
  file: Uint8Array,
  fail: (problem: string) => never,
): { width: number; height: number; channels: 1 | 3 } {
  if (!isJpeg(file)) fail('not a JPEG: its first bytes are not those of one');
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  let at = 2;
  for (;;) {
    // A marker may follow any number of 0xff.
    while (file[at] === 0xff && file[at + 1] === 0xff) at++;
    if (at + 4 > file.length)
      fail(`truncated: its headers need more than its ${file.length} bytes; get it again`);
    const marker = file[at + 1] as number;
    const length = view.getUint16(at + 2);
    if (file[at] !== 0xff || marker === 0 || marker === 0xd9 || marker === 0xda)
      fail(`damaged JPEG: no frame header before byte ${at}`);
    if (length < 2) fail(`damaged JPEG: a segment of ${length} bytes at byte ${at}`);
    if (at + 2 + length > file.length)
      fail(`truncated: a segment needs ${at + 2 + length} bytes, the file has ${file.length}; get it again`);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      if (length < 8) fail(`damaged JPEG: a frame header of ${length} bytes`);
      if (marker > 0xc2)
        fail(
          `JPEG of kind SOF${marker - 0xc0} is not read (sequential and progressive ones are); convert it to PNG`,
        );
      const bits = file[at + 4] as number;
      const height = view.getUint16(at + 5);
      const width = view.getUint16(at + 7);
      const components = file[at + 9] as number;
      if (bits !== 8) fail(`JPEG of ${bits} bits a sample is not read (8 are); convert it to PNG`);
      if (width === 0 || height === 0) fail(`damaged JPEG: ${width} x ${height} pixels`);
      if (width * height > maxPixels) {
        fail(
          `${width} x ${height} = ${width * height} pixels are more than the ${maxPixels} (4096 x 4096) that are read; scale it down`,
        );
      }
      if (components === 4) fail('a CMYK JPEG (4 components) is not read; convert it to RGB');
      if (components !== 1 && components !== 3)
        return fail(`damaged JPEG: ${components} components are neither gray nor RGB`);
      return { width, height, channels: components };
    }
    at += 2 + length;
  }
}
