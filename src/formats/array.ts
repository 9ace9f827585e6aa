/** An array in host memory, as files hold it. */

export type HostData =
  | Float32Array
  | Float64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

/** Row-major (C order); `data.length` is the product of `shape`, and [] is a scalar. */
export interface HostArray {
  readonly shape: readonly number[];
  readonly data: HostData;
}

/** The product of a shape; Infinity where it does not fit a number. */
export function elementCount(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((count, size) => count * size, 1);
}

/** The same numbers as 32-bit floats; `data` itself where it has them. */
export function toFloat32(data: HostData): Float32Array {
  return data instanceof Float32Array ? data : new Float32Array(data);
}
