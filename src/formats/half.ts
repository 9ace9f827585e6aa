/** 16-bit floats (IEEE binary16 and bfloat16) to and from 32-bit ones; encoding rounds to nearest, ties to even. */

// Plain loops: `from` with a function is some ten times slower, and a checkpoint has hundreds of millions of these.

export function halfToFloat(halves: Uint16Array): Float32Array {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < floats.length; i++) floats[i] = fromHalf(halves[i] as number);
  return floats;
}

function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** What is beyond 65504 after rounding becomes infinite. */
export function floatToHalf(floats: Float32Array): Uint16Array {
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const halves = new Uint16Array(floats.length);
  for (let i = 0; i < halves.length; i++) halves[i] = toHalf(bits[i] as number, floats[i] as number);
  return halves;
}

function toHalf(word: number, float: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  // Subnormal: a multiple of 2^-24. The product is exact, so only the rounding below rounds.
  if (magnitude < 0x38800000) return sign | roundEven(Math.abs(float) * 2 ** 24);
  // Adding half a unit less the lowest kept bit makes the carry round ties to even.
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

export function bfloatToFloat(bfloats: Uint16Array): Float32Array {
  const words = new Uint32Array(bfloats.length);
  for (let i = 0; i < words.length; i++) words[i] = (bfloats[i] as number) << 16;
  return new Float32Array(words.buffer);
}

export function floatToBfloat(floats: Float32Array): Uint16Array {
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const bfloats = new Uint16Array(bits.length);
  for (let i = 0; i < bfloats.length; i++) {
    const word = bits[i] as number;
    // A NaN whose payload lies in the lower half would turn into infinity.
    const nan = (word & 0x7fffffff) > 0x7f800000;
    bfloats[i] = nan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bfloats;
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
