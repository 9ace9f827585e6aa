/**
 * Augmentation that does not leak into what a denoiser generates (Karras et al. 2022, App. F.2; Karras et al. 2020): the
 * network is told what was done to an image, in nine numbers that are 0 when it is sampled from. Images are mirrored with
 * probability ½; each other change happens with the probability given. Geometry is resampled at twice the resolution, between
 * the orthogonal filters of the symlet of 6 vanishing moments, at reflected edges.
 */
import { purposes } from '../engine/random.ts';
import { type Counter, normals, uniforms } from './draws.ts';

/** mirror, upside down, log₂ scale, cos θ − 1, sin θ, anisotropy (2), shift (2). */
export const augmentLabels = 9;

/** What is done to an image. */
export interface Change {
  readonly mirror: boolean;
  readonly upsideDown: boolean;
  /** Where in the image the pixel (x, y) of the result lies, from the centre: (a x + b y + c, d x + e y + f); null is in place. */
  readonly inverse: Affine | null;
  readonly labels: readonly number[];
}

export type Affine = readonly [a: number, b: number, c: number, d: number, e: number, f: number];

/** m then of n's result: the product m·n of the matrices. */
const product = ([a, b, c, d, e, f]: Affine, [g, h, i, j, k, l]: Affine): Affine => [
  a * g + b * j,
  a * h + b * k,
  a * i + b * l + c,
  d * g + e * j,
  d * h + e * k,
  d * i + e * l + f,
];
const scaling = (x: number, y: number): Affine => [x, 0, 0, 0, y, 0];
const rotation = (angle: number): Affine => [
  Math.cos(angle),
  -Math.sin(angle),
  0,
  Math.sin(angle),
  Math.cos(angle),
  0,
];

/** The published deviations: of log₂ of a scale, and of a shift as a share of the image. */
const [scaleStd, shiftStd] = [0.2, 0.125];

/** The change of an image of width × height, drawn by its counter. */
export function drawChange(probability: number, width: number, height: number, counter: Counter): Change {
  const [flat, bell] = [uniforms(counter), normals({ ...counter, purpose: counter.purpose + 256 })];
  const uniform = () => flat.next().value;
  const normal = () => bell.next().value;
  // Everything is drawn, whatever happens: one change does not move the others' numbers.
  const when = (value: number) => (uniform() < probability ? value : 0);
  const mirror = uniform() < 0.5;
  const upsideDown = when(uniform() < 0.5 ? 1 : 0) === 1;
  const size = when(normal());
  const angle = when(Math.PI * (2 * uniform() - 1));
  const stretch = when(normal());
  const direction = Math.PI * (2 * uniform() - 1) * (uniform() < 0.5 ? 1 : 0);
  const moved = when(1);
  const [right, down] = [moved * normal(), moved * normal()];
  const [s, t] = [2 ** (scaleStd * size), 2 ** (scaleStd * stretch)];
  const inverse = [
    scaling(1 / s, 1 / s),
    rotation(angle),
    product(product(rotation(-direction), scaling(1 / t, t)), rotation(direction)),
    [1, 0, -right * width * shiftStd, 0, 1, -down * height * shiftStd] as Affine,
  ].reduce(product);
  const still = size === 0 && angle === 0 && stretch === 0 && moved === 0;
  return {
    mirror,
    upsideDown,
    inverse: still ? null : inverse,
    labels: [
      ...[mirror ? 1 : 0, upsideDown ? 1 : 0, size, Math.cos(angle) - 1, Math.sin(angle)],
      ...[stretch * Math.cos(direction), stretch * Math.sin(direction), right, down],
    ],
  };
}

/** sym6's scaling filter; its sum is √2. */
const filter = [
  0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
  0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
  0.0017677118642428036, -0.007800708325034148,
];
const taps = filter.length;
/** Pixels beyond each edge that the filter reaches. */
const reach = taps / 4;

/** @param image [H, W, C], values around 0 @returns the changed image */
export function changed(
  image: Float32Array,
  shape: readonly [height: number, width: number, channels: number],
  { mirror, upsideDown, inverse }: Change,
): Float32Array {
  const [height, width, channels] = shape;
  const flipped = new Float32Array(image.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const from = ((upsideDown ? height - 1 - y : y) * width + (mirror ? width - 1 - x : x)) * channels;
      for (let c = 0; c < channels; c++) flipped[(y * width + x) * channels + c] = image[from + c] as number;
    }
  return inverse ? warped(flipped, shape, inverse) : flipped;
}

function warped(
  image: Float32Array,
  [height, width, channels]: readonly [number, number, number],
  inverse: Affine,
): Float32Array {
  const [a, b, c, d, e, f] = inverse;
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2];
  // How far beyond the edges the corners lie, with room for the filters.
  const corners = [-1, 1].flatMap((i) => [-1, 1].map((j): [number, number] => [i * cx, j * cy]));
  const xs = corners.map(([x, y]) => a * x + b * y + c);
  const ys = corners.map(([x, y]) => d * x + e * y + f);
  const margin = (beyond: number, centre: number, most: number) =>
    Math.ceil(Math.min(Math.max(beyond + 2 * reach - centre, 0), most));
  const x0 = margin(-Math.min(...xs), cx, width - 1);
  const x1 = margin(Math.max(...xs), cx, width - 1);
  const y0 = margin(-Math.min(...ys), cy, height - 1);
  const y1 = margin(Math.max(...ys), cy, height - 1);
  const [wide, high] = [width + x0 + x1, height + y0 + y1];

  // [H, W, C] -> [H, 2 wide, C] -> [2 high, 2 wide, C].
  const across = doubled(image, height, width, channels, x0, wide);
  const large = doubled(across, 1, height, 2 * wide * channels, y0, high);

  // Bilinear, zero outside, where the result's pixels are at twice the resolution.
  const [outWidth, outHeight] = [2 * (width + 2 * reach), 2 * (height + 2 * reach)];
  const sampled = new Float32Array(outWidth * outHeight * channels);
  const line = 2 * wide * channels;
  for (let j = 0; j < outHeight; j++)
    for (let i = 0; i < outWidth; i++) {
      const [u, v] = [(i - outWidth / 2 + 1) / 2, (j - outHeight / 2 + 1) / 2];
      const px = 2 * (a * u + b * v + c + (x0 - x1) / 2) - 1 + wide;
      const py = 2 * (d * u + e * v + f + (y0 - y1) / 2) - 1 + high;
      const [left, top] = [Math.floor(px), Math.floor(py)];
      for (const [y, wy] of [
        [top, 1 - (py - top)],
        [top + 1, py - top],
      ] as const)
        for (const [x, wx] of [
          [left, 1 - (px - left)],
          [left + 1, px - left],
        ] as const) {
          if (x < 0 || y < 0 || x >= 2 * wide || y >= 2 * high) continue;
          const [from, to] = [y * line + x * channels, (j * outWidth + i) * channels];
          for (let k = 0; k < channels; k++)
            sampled[to + k] = (sampled[to + k] as number) + wx * wy * (large[from + k] as number);
        }
    }
  const narrow = halved(sampled, outHeight, outWidth, channels, width);
  return halved(narrow, 1, outHeight, width * channels, height);
}

/**
 * Along the middle axis of [rows, n, inner]: `before` values and more are reflected in until there are `length`, zeros put
 * between, then filtered. y[k] = Σ_i h[k − 2i + 5] x[i], [rows, 2 length, inner].
 */
function doubled(
  x: Float32Array,
  rows: number,
  n: number,
  inner: number,
  before: number,
  length: number,
): Float32Array {
  const out = new Float32Array(rows * 2 * length * inner);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < 2 * length; k++) {
      const to = (row * 2 * length + k) * inner;
      for (let t = (k + 1) % 2; t < taps; t += 2) {
        const i = (k + 5 - t) / 2;
        if (i < 0 || i >= length) continue;
        const at = n - 1 - Math.abs(n - 1 - Math.abs(i - before));
        const from = (row * n + at) * inner;
        const weight = filter[t] as number;
        for (let c = 0; c < inner; c++)
          out[to + c] = (out[to + c] as number) + weight * (x[from + c] as number);
      }
    }
  return out;
}

/** Back along the middle axis of [rows, n, inner], without `reach` at both ends: y[m] = Σ_t h[t] x[2(m + 3) + t − 5], [rows, length, inner]. */
function halved(x: Float32Array, rows: number, n: number, inner: number, length: number): Float32Array {
  const out = new Float32Array(rows * length * inner);
  for (let row = 0; row < rows; row++)
    for (let m = 0; m < length; m++) {
      const to = (row * length + m) * inner;
      for (let t = 0; t < taps; t++) {
        const i = 2 * (m + reach) + t - 5;
        if (i < 0 || i >= n) continue;
        const from = (row * n + i) * inner;
        const weight = filter[t] as number;
        for (let c = 0; c < inner; c++)
          out[to + c] = (out[to + c] as number) + weight * (x[from + c] as number);
      }
    }
  return out;
}

/** Augments a batch in place. @param images [B, H, W, C], values around 0 @returns the labels, [B, 9] */
export function augment(
  images: Float32Array,
  shape: readonly [number, number, number],
  { probability, seed, step }: { readonly probability: number; readonly seed: number; readonly step: number },
): Float32Array {
  const [height, width, channels] = shape;
  const size = height * width * channels;
  const batch = images.length / size;
  const labels = new Float32Array(batch * augmentLabels);
  for (let row = 0; row < batch; row++) {
    const counter = { seed, purpose: purposes.augmentation + 256, step, row };
    const change = drawChange(probability, width, height, counter);
    images.set(changed(images.subarray(row * size, (row + 1) * size), shape, change), row * size);
    labels.set(change.labels, row * augmentLabels);
  }
  return labels;
}
