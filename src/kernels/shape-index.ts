/**
 * Strided walks over dense arrays: what broadcasting, transposing, slicing and padding have in common. A walk is a
 * row-major list of sizes and, for each operand, the distance in elements between neighbours along each axis
 * (0 = the operand is repeated). Neighbouring axes that every operand crosses evenly are merged, so that nearly
 * everything a network does becomes one, two or three axes.
 */
import { check } from '../engine/errors.ts';
import type { DType, Shape } from '../engine/tensor.ts';

/** The longest walk a kernel can make, after merging. */
export const maxRank = 6;

/** Distance between neighbours along each axis of a dense row-major array. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i] as number;
  }
  return strides;
}

export interface Walk {
  /** Innermost first, as many as the merged walk has, at least one. */
  readonly sizes: readonly number[];
  /** One list an operand, innermost first. */
  readonly strides: readonly (readonly number[])[];
}

/** Drops axes of size 1 and merges axis k with k+1 where stride[k] = stride[k+1]·size[k+1] for every operand. */
export function mergeAxes(shape: Shape, strides: readonly (readonly number[])[]): Walk {
  const sizes: number[] = [];
  const merged: number[][] = strides.map(() => []);
  for (let k = shape.length - 1; k >= 0; k--) {
    const size = shape[k] as number;
    if (size === 1) continue;
    const top = sizes.length - 1;
    const joins =
      top >= 0 &&
      merged.every(
        (list, a) => (list[top] as number) * (sizes[top] as number) === (strides[a] as readonly number[])[k],
      );
    if (joins) {
      sizes[top] = (sizes[top] as number) * size;
    } else {
      sizes.push(size);
      for (const [a, list] of merged.entries()) list.push((strides[a] as readonly number[])[k] as number);
    }
  }
  if (sizes.length === 0) {
    sizes.push(1);
    for (const list of merged) list.push(0);
  }
  return { sizes, strides: merged };
}

/**
 * The walk in steps of four elements, or null. The innermost axis must be divisible by 4 and each operand either
 * dense along it, then it is read as vec4 and everything else about it must be divisible too, or constant along
 * it, then it is read as a scalar and repeated.
 */
export function widen(walk: Walk, offsets: readonly number[] = []): Walk | null {
  const inner = walk.sizes[0] as number;
  if (inner % 4 !== 0) return null;
  const fits = walk.strides.every((list, a) => {
    if (list[0] === 0) return true;
    return list[0] === 1 && (offsets[a] ?? 0) % 4 === 0 && list.slice(1).every((s) => s % 4 === 0);
  });
  if (!fits) return null;
  return {
    sizes: [inner / 4, ...walk.sizes.slice(1)],
    strides: walk.strides.map((list) => (list[0] === 0 ? list : [1, ...list.slice(1).map((s) => s / 4)])),
  };
}

/** Number of axes a kernel is compiled for: few variants rather than tight ones. */
export function kernelRank(walk: Walk): 1 | 2 | 3 | 6 {
  const rank = walk.sizes.length;
  return rank <= 2 ? (rank as 1 | 2) : rank === 3 ? 3 : 6;
}

/** `list` as the two halves of the kernels' params, innermost first: [0..2] and [3..5]. */
export function halves(list: readonly number[], filler: number): [number[], number[]] {
  const at = (i: number) => list[i] ?? filler;
  return [
    [at(0), at(1), at(2)],
    [at(3), at(4), at(5)],
  ];
}

/** WGSL type of an element, or of four. Operations that only move data treat integers as u32. */
export function elementType(name: string, dtype: DType, wide: boolean): string {
  check(dtype !== 'f16', () => `${name}: f16 tensors are not supported here`);
  const scalar = dtype === 'f32' ? 'f32' : 'u32';
  return wide ? `vec4<${scalar}>` : scalar;
}

/** `axis` in 0..rank-1; negative ones count from the end. */
export function axisOf(name: string, axis: number, rank: number): number {
  check(
    Number.isInteger(axis) && axis >= -rank && axis < rank,
    () => `${name}: axis ${axis} is outside a tensor of rank ${rank}`,
  );
  return axis < 0 ? axis + rank : axis;
}
