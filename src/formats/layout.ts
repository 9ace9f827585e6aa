/** Images between the files' order, channels first, and the engine's, channels last. */

/** [..., C, H, W] to [..., H, W, C]. */
export function channelsLast(
  data: Float32Array,
  [c, h, w]: readonly [number, number, number],
): Float32Array<ArrayBuffer> {
  return swapped(data, c, h * w);
}

/** [..., H, W, C] to [..., C, H, W]. */
export function channelsFirst(
  data: Float32Array,
  [h, w, c]: readonly [number, number, number],
): Float32Array<ArrayBuffer> {
  return swapped(data, h * w, c);
}

/** Each [rows, columns] block transposed. */
function swapped(data: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  const block = rows * columns;
  for (let at = 0; at < data.length; at += block) {
    let to = at;
    for (let column = 0; column < columns; column++) {
      for (let row = 0; row < rows; row++) out[to++] = data[at + row * columns + column] as number;
    }
  }
  return out;
}
