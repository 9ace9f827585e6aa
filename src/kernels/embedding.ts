/**
 * Embeddings of time (or of noise level) as sines and cosines, accurate for large arguments: a network's output
 * moves by 4e-4 for a relative error of 1e-5 here, and WGSL promises only 2^-11 for sin and cos, within ±π.
 *
 * On the device the angle is reduced in turns from exact products: the absolute error is below 5e-7 for the f32
 * inputs given. Where t is known on the host, the `…Host` functions compute in double.
 * There are no gradients: t and w are treated as constants.
 */
import type { Device } from '../engine/device.ts';
import { check } from '../engine/errors.ts';
import { kernel, linearGrid } from '../engine/kernel.ts';
import type { Tensor } from '../engine/tensor.ts';
import source from './embedding.wgsl';

export interface SinusoidalOptions {
  /** Which half comes first: 'cos-sin' (ADM, the default) or 'sin-cos'. */
  readonly order?: 'cos-sin' | 'sin-cos';
  /** The longest wavelength is about 2π·maxPeriod. Default 10000. */
  readonly maxPeriod?: number;
  /** The last frequency is 1/maxPeriod itself (score_sde), not one step above it (ADM, the default). */
  readonly endpoint?: boolean;
}

/** Frequencies in radians: maxPeriod^(−i/half), i < half = floor(dim/2); with `endpoint`, maxPeriod^(−i/(half−1)). */
function frequencies(dim: number, maxPeriod: number, endpoint: boolean): number[] {
  const half = Math.floor(dim / 2);
  const last = endpoint ? Math.max(1, half - 1) : half;
  return Array.from({ length: half }, (_, i) => Math.exp((-Math.log(maxPeriod) * i) / last));
}

function embed(t: Tensor, w: Tensor, half: number, columns: number, cosFirst: boolean): Tensor {
  const { device } = t;
  const rows = t.size;
  const y = device.empty([rows, columns]);
  const pairs = w.rank === 2;
  const k = kernel(
    'embedding',
    `${source}\nfn pair(e: E) -> vec2<f32> { return ${pairs ? 'e' : 'vec2<f32>(e, 0.0)'}; }`,
    { E: pairs ? 'vec2<f32>' : 'f32' },
  );
  const count = rows * (columns - half);
  device.run(k, { t, w, y }, { count, half, columns, cos_first: cosFirst ? 1 : 0 }, linearGrid(count));
  return y;
}

/**
 * [N] and [D] -> [N,2D] = [sin(2π·t·w), cos(2π·t·w)]: GaussianFourierProjection of NCSN++, where t is the
 * conditioning (0.25·ln σ) and w already holds the scale.
 * @throws ShapeError unless t and w are f32 vectors
 */
export function fourierEmbedding(t: Tensor, w: Tensor): Tensor {
  for (const [name, x] of Object.entries({ t, w })) {
    check(
      x.rank === 1 && x.dtype === 'f32',
      () => `fourierEmbedding: ${name} [${x.shape}] ${x.dtype} is not a vector of f32`,
    );
  }
  return embed(t, w, w.size, 2 * w.size, false);
}

/**
 * [N] -> [N,dim]: cos(t·f), sin(t·f) with f_i = maxPeriod^(−i/half), half = floor(dim/2), and a column of zeros when
 * dim is odd: `timestep_embedding` of ADM.
 * @throws ShapeError unless t is an f32 vector and dim ≥ 2
 */
export function sinusoidalEmbedding(t: Tensor, dim: number, options: SinusoidalOptions = {}): Tensor {
  const { order = 'cos-sin', maxPeriod = 10000, endpoint = false } = options;
  check(
    t.rank === 1 && t.dtype === 'f32',
    () => `sinusoidalEmbedding: t [${t.shape}] ${t.dtype} is not a vector of f32`,
  );
  check(
    Number.isInteger(dim) && dim >= 2,
    () => `sinusoidalEmbedding: dim ${dim} is not a whole number from 2`,
  );
  const table = turnsTable(t.device, dim, maxPeriod, endpoint);
  return embed(t, table, Math.floor(dim / 2), dim, order === 'cos-sin');
}

const tables = new WeakMap<Device, Map<string, Tensor>>();

/** Frequencies in turns as pairs of f32 whose sum has 48 bits; made once a device. */
function turnsTable(device: Device, dim: number, maxPeriod: number, endpoint: boolean): Tensor {
  const known = tables.get(device) ?? new Map<string, Tensor>();
  tables.set(device, known);
  const key = `${dim} ${maxPeriod} ${endpoint}`;
  let table = known.get(key);
  if (!table || table.disposed) {
    const turns = frequencies(dim, maxPeriod, endpoint).map((f) => f / (2 * Math.PI));
    const data = turns.flatMap((f) => [Math.fround(f), f - Math.fround(f)]);
    table = device.keep(device.tensor(data, [turns.length, 2]));
    known.set(key, table);
  }
  return table;
}

/** `fourierEmbedding` in double precision on the host: row-major [N,2D]. */
export function fourierEmbeddingHost(t: ArrayLike<number>, w: ArrayLike<number>): Float32Array {
  const y = new Float32Array(t.length * 2 * w.length);
  for (let n = 0; n < t.length; n++) {
    for (let i = 0; i < w.length; i++) {
      const angle = 2 * Math.PI * (t[n] as number) * (w[i] as number);
      y[2 * n * w.length + i] = Math.sin(angle);
      y[(2 * n + 1) * w.length + i] = Math.cos(angle);
    }
  }
  return y;
}

/** `sinusoidalEmbedding` in double precision on the host: row-major [N,dim]. */
export function sinusoidalEmbeddingHost(
  t: ArrayLike<number>,
  dim: number,
  options: SinusoidalOptions = {},
): Float32Array {
  const { order = 'cos-sin', maxPeriod = 10000, endpoint = false } = options;
  check(
    Number.isInteger(dim) && dim >= 2,
    () => `sinusoidalEmbeddingHost: dim ${dim} is not a whole number from 2`,
  );
  const f = frequencies(dim, maxPeriod, endpoint);
  const y = new Float32Array(t.length * dim);
  for (let n = 0; n < t.length; n++) {
    f.forEach((frequency, i) => {
      const angle = (t[n] as number) * frequency;
      const [first, second] =
        order === 'cos-sin' ? [Math.cos(angle), Math.sin(angle)] : [Math.sin(angle), Math.cos(angle)];
      y[n * dim + i] = first;
      y[n * dim + f.length + i] = second;
    });
  }
  return y;
}
