/**
 * The Fréchet distance of two sets of images, taken for Gaussians in the feature space of a classifier (Heusel et al. 2017,
 * there of Inception; here of a network whose weights are given, so that numbers of the two are not comparable):
 *
 *   |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½,   tr (Σ₁Σ₂)^½ = Σᵢ √λᵢ(Σ₁^½ Σ₂ Σ₁^½)
 *
 * Moments, eigenvalues and the distance are in double precision. The estimate of n images is too large by about d²/n of a
 * feature's variance: compare sets of equal size alone.
 */
import { check, InputError } from '../engine/errors.ts';

export interface Moments {
  readonly count: number;
  /** [d] */
  readonly mean: Float64Array;
  /** [d, d], divided by n − 1. */
  readonly covariance: Float64Array;
}

/**
 * @param features [N, d], row-major
 * @param d features an image
 * @throws InputError for fewer than two images, or a number that is not finite
 */
export function momentsOf(features: ArrayLike<number>, d: number): Moments {
  const n = features.length / d;
  check(Number.isInteger(n), () => `moments: ${features.length} numbers are not rows of ${d}`);
  if (n < 2) throw new InputError(`moments: ${n} images; a covariance needs at least 2`);
  const mean = new Float64Array(d);
  for (let i = 0; i < features.length; i++) mean[i % d]! += (features[i] as number) / n;
  const bad = mean.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new InputError(`moments: feature ${bad} is not finite; the network may be damaged`);
  const covariance = new Float64Array(d * d);
  const row = new Float64Array(d);
  for (let k = 0; k < n; k++) {
    for (let i = 0; i < d; i++) row[i] = (features[k * d + i] as number) - (mean[i] as number);
    for (let i = 0; i < d; i++)
      for (let j = 0; j <= i; j++)
        covariance[i * d + j]! += ((row[i] as number) * (row[j] as number)) / (n - 1);
  }
  for (let i = 0; i < d; i++)
    for (let j = 0; j < i; j++) covariance[j * d + i] = covariance[i * d + j] as number;
  return { count: n, mean, covariance };
}

/** Squared, as is usual; 0 for equal moments. */
export function frechetDistance(a: Moments, b: Moments): number {
  const d = a.mean.length;
  check(b.mean.length === d, () => `frechetDistance: ${d} features against ${b.mean.length}`);
  let distance = 0;
  for (let i = 0; i < d; i++) {
    distance += ((a.mean[i] as number) - (b.mean[i] as number)) ** 2;
    distance += (a.covariance[i * d + i] as number) + (b.covariance[i * d + i] as number);
  }
  const root = squareRoot(a.covariance, d);
  const product = multiply(multiply(root, b.covariance, d), root, d);
  // Rounding leaves it symmetric to the last bits only, and eigenvalues of zero below it.
  for (let i = 0; i < d; i++)
    for (let j = 0; j < i; j++) {
      const middle = ((product[i * d + j] as number) + (product[j * d + i] as number)) / 2;
      product[i * d + j] = product[j * d + i] = middle;
    }
  const { values } = symmetricEigen(product, d);
  return Math.max(0, distance - 2 * values.reduce((sum, value) => sum + Math.sqrt(Math.max(0, value)), 0));
}

/** V √λ Vᵀ of a symmetric positive semidefinite matrix. */
function squareRoot(matrix: Float64Array, d: number): Float64Array {
  const { values, vectors } = symmetricEigen(matrix, d);
  const root = new Float64Array(d * d);
  for (let k = 0; k < d; k++) {
    const s = Math.sqrt(Math.max(0, values[k] as number));
    for (let i = 0; i < d; i++)
      for (let j = 0; j < d; j++)
        root[i * d + j]! += s * (vectors[i * d + k] as number) * (vectors[j * d + k] as number);
  }
  return root;
}

function multiply(a: Float64Array, b: Float64Array, d: number): Float64Array {
  const c = new Float64Array(d * d);
  for (let i = 0; i < d; i++)
    for (let k = 0; k < d; k++)
      for (let j = 0; j < d; j++) c[i * d + j]! += (a[i * d + k] as number) * (b[k * d + j] as number);
  return c;
}

/**
 * Eigenvalues, in no order, and eigenvectors, as columns, of a symmetric matrix [d, d]: Jacobi's cyclic rotations, until
 * what is off the diagonal has vanished in double precision (Golub & Van Loan, Sec. 8.5).
 */
export function symmetricEigen(
  matrix: ArrayLike<number>,
  d: number,
): { values: Float64Array; vectors: Float64Array } {
  const a = Float64Array.from(matrix);
  const v = new Float64Array(d * d);
  for (let i = 0; i < d; i++) v[i * d + i] = 1;
  const scale = Math.sqrt(a.reduce((sum, value) => sum + value * value, 0));
  const at = (i: number, j: number) => a[i * d + j] as number;
  /** Columns p and q of m become c p − s q and s p + c q. */
  const rotate = (m: Float64Array, p: number, q: number, step: number, c: number, s: number) => {
    for (let k = 0; k < d; k++) {
      const [x, y] = [m[p + k * step] as number, m[q + k * step] as number];
      m[p + k * step] = c * x - s * y;
      m[q + k * step] = s * x + c * y;
    }
  };
  for (let sweep = 0; sweep < 100; sweep++) {
    let off = 0;
    for (let p = 0; p < d; p++) for (let q = p + 1; q < d; q++) off += 2 * at(p, q) ** 2;
    if (Math.sqrt(off) <= 1e-15 * scale) break;
    for (let p = 0; p < d; p++)
      for (let q = p + 1; q < d; q++) {
        if (at(p, q) === 0) continue;
        const theta = (at(q, q) - at(p, p)) / (2 * at(p, q));
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(1, theta));
        const c = 1 / Math.hypot(1, t);
        rotate(a, p, q, d, c, t * c); // columns
        rotate(a, p * d, q * d, 1, c, t * c); // rows
        rotate(v, p, q, d, c, t * c);
      }
  }
  return { values: Float64Array.from({ length: d }, (_, i) => at(i, i)), vectors: v };
}
