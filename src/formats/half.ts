/** 16-bit floats (IEEE binary16 and bfloat16) to and from 32-bit ones; encoding rounds to nearest, ties to even. */

// Loops, not TypedArray.from: that one first makes a list of boxed numbers of the whole array.

export function halfToFloat(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < out.length; i++) {
    const half = halves[i] as number;
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 31) out[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else
      out[i] = exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
  return out;
}

/** What is beyond 65504 after rounding becomes infinite. */
export function floatToHalf(floats: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const out = new Uint16Array(floats.length);
  for (let i = 0; i < out.length; i++) {
    const word = bits[i] as number;
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) out[i] = sign | 0x7e00;
    else if (magnitude >= 0x477ff000) out[i] = sign | 0x7c00;
    else if (magnitude < 0x38800000) {
      // Subnormal: a multiple of 2^-24. The product is exact, so only the rounding below rounds.
      out[i] = sign | roundEven(Math.abs(floats[i] as number) * 2 ** 24);
    } else {
      // Adding half a unit less the lowest kept bit makes the carry round ties to even.
      out[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    }
  }
  return out;
}

export function bfloatToFloat(bfloats: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bfloats.length);
  for (let i = 0; i < words.length; i++) words[i] = (bfloats[i] as number) << 16;
  return new Float32Array(words.buffer);
}

export function floatToBfloat(floats: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const out = new Uint16Array(floats.length);
  for (let i = 0; i < out.length; i++) {
    const word = bits[i] as number;
    // A NaN whose payload lies in the lower half would turn into infinity.
    out[i] =
      (word & 0x7fffffff) > 0x7f800000 ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out;
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
