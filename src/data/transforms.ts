/**
 * The evaluation transform of torchvision on PIL images, to the bit: Resize (bilinear), CenterCrop, ToTensor.
 *
 * PIL resizes rows, then columns, each with a triangle as wide as the reduction (so it averages where it shrinks),
 * with weights of 22 fractional bits, and rounds to 8 bits after each pass.
 */
import { InputError } from '../engine/errors.ts';
import { type Image, imageToFloats, maxPixels, toRgb } from '../formats/image.ts';

const precision = 22;

interface Taps {
  /** First source sample of each output sample. */
  readonly first: Int32Array;
  /** How many source samples each output sample takes. */
  readonly count: Int32Array;
  /** `most` fixed-point weights an output sample. */
  readonly weights: Int32Array;
  readonly most: number;
}

/** The triangle filter's weights from `from` samples to `to`, as PIL computes them. */
function taps(from: number, to: number): Taps {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const most = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * most);
  const line = new Float64Array(most);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    // Both ends are rounded, by truncation, as C casts.
    const begin = Math.max(0, Math.trunc(centre - support + 0.5));
    const taken = Math.min(from, Math.trunc(centre + support + 0.5)) - begin;
    let sum = 0;
    for (let k = 0; k < taken; k++) {
      line[k] = Math.max(0, 1 - Math.abs((k + begin - centre + 0.5) * (1 / support)));
      sum += line[k] as number;
    }
    for (let k = 0; k < taken; k++) {
      const share = sum === 0 ? (line[k] as number) : (line[k] as number) / sum;
      weights[i * most + k] = Math.trunc(0.5 + share * 2 ** precision);
    }
    first[i] = begin;
    count[i] = taken;
  }
  return { first, count, weights, most };
}

/**
 * PIL's `resize` with BILINEAR: equal to it in every bit.
 * @throws InputError for sizes that are no positive integers
 */
export function resizeBilinear(image: Image, height: number, width: number): Image {
  if (![height, width].every((size) => Number.isInteger(size) && size > 0))
    throw new InputError(`resize: ${height} x ${width} are not positive integers`);
  const { channels } = image;
  let { data } = image;
  /** `lines` lines of `from` samples become `to`; samples lie `step` apart, lines `between` and then `nowBetween`. */
  const along = (
    from: number,
    to: number,
    lines: number,
    step: number,
    between: number,
    nowBetween: number,
  ) => {
    const { first, count, weights, most } = taps(from, to);
    const out = new Uint8Array(lines * to * channels);
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < to; i++) {
        const source = line * between + (first[i] as number) * step;
        for (let c = 0; c < channels; c++) {
          let sum = 1 << (precision - 1);
          for (let k = 0; k < (count[i] as number); k++) {
            sum += (data[source + k * step + c] as number) * (weights[i * most + k] as number);
          }
          out[line * nowBetween + i * step + c] = Math.min(255, sum >> precision);
        }
      }
    }
    data = out;
  };
  const row = width * channels;
  if (width !== image.width) along(image.width, width, image.height, channels, image.width * channels, row);
  if (height !== image.height) along(image.height, height, width, row, channels, channels);
  return { width, height, channels, data };
}

/** Half-way values to the even neighbour, as Python rounds. */
function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}

/** The middle `size` x `size` of an image, where torchvision takes it. @throws InputError for a smaller image */
export function centerCrop(image: Image, size: number): Image {
  const { width, height, channels } = image;
  if (!Number.isInteger(size) || size < 1 || width < size || height < size)
    throw new InputError(`crop: ${width} x ${height} does not hold ${size} x ${size}`);
  const top = roundHalfEven((height - size) / 2);
  const left = roundHalfEven((width - size) / 2);
  const data = new Uint8Array(size * size * channels);
  for (let y = 0; y < size; y++) {
    const from = ((top + y) * width + left) * channels;
    data.set(image.data.subarray(from, from + size * channels), y * size * channels);
  }
  return { width: size, height: size, channels, data };
}

/**
 * Resize(size) of the shorter side, CenterCrop(size), ToTensor: the transform of the ImageNet-100 evaluation, with
 * size 64.
 * @returns [size, size, 3] in [0, 1]
 * @throws InputError
 */
export function evaluationTransform(image: Image, size: number): Float32Array {
  const { width, height } = image;
  const short = Math.min(width, height);
  const long = Math.trunc((size * Math.max(width, height)) / short);
  if (long * size > maxPixels)
    throw new InputError(
      `${width} x ${height}: with the shorter side ${size} the longer is ${long}, more pixels than the ${maxPixels} that are read; crop it`,
    );
  const resized =
    width <= height ? resizeBilinear(toRgb(image), long, size) : resizeBilinear(toRgb(image), size, long);
  return imageToFloats(centerCrop(resized, size));
}
