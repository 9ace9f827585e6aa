/** Images in host memory, and their floats. */

/** Bytes of the largest file that is decoded. */
export const maxFile = 2 ** 28;
/** Of the largest image that is decoded or resized to. */
export const maxPixels = 4096 * 4096;

/** Rows from the top, pixels from the left, channels together: `data` is [height, width, channels] of 0..255. */
export interface Image {
  readonly width: number;
  readonly height: number;
  /** Gray or RGB. */
  readonly channels: 1 | 3;
  readonly data: Uint8Array;
}

/**
 * An image of floats in [0, 1], rounded to 8 bits; what lies outside is clamped, NaN is black.
 * @param values [height, width, channels]
 */
export function imageFromFloats(
  values: ArrayLike<number>,
  height: number,
  width: number,
  channels: 1 | 3,
): Image {
  if (values.length !== height * width * channels) {
    throw new RangeError(`image: ${height} x ${width} x ${channels} does not hold ${values.length} values`);
  }
  // A clamped array rounds ties to even and maps NaN to 0.
  const clamped = Uint8ClampedArray.from(values, (value) => value * 255);
  return { width, height, channels, data: new Uint8Array(clamped.buffer) };
}

/** [height, width, channels] in [0, 1]. */
export function imageToFloats(image: Image): Float32Array {
  return Float32Array.from(image.data, (value) => value / 255);
}

/** One channel: the luma of Rec. 601, which leaves R = G = B as it is. */
export function toGray(image: Image): Image {
  if (image.channels === 1) return image;
  const { data } = image;
  const gray = new Uint8Array(image.width * image.height);
  for (let i = 0; i < gray.length; i++) {
    const luma =
      299 * (data[3 * i] as number) + 587 * (data[3 * i + 1] as number) + 114 * (data[3 * i + 2] as number);
    gray[i] = Math.round(luma / 1000);
  }
  return { ...image, channels: 1, data: gray };
}

export function toRgb(image: Image): Image {
  if (image.channels === 3) return image;
  const data = new Uint8Array(3 * image.data.length);
  for (let i = 0; i < data.length; i++) data[i] = image.data[Math.floor(i / 3)] as number;
  return { ...image, channels: 3, data };
}

/** Each pixel as a square of `factor` x `factor`: edges stay sharp. */
export function upscale(image: Image, factor: number): Image {
  const { width, height, channels } = image;
  const data = new Uint8Array(image.data.length * factor * factor);
  let to = 0;
  for (let y = 0; y < height * factor; y++) {
    const row = Math.floor(y / factor) * width;
    for (let x = 0; x < width * factor; x++) {
      const from = (row + Math.floor(x / factor)) * channels;
      for (let c = 0; c < channels; c++) data[to++] = image.data[from + c] as number;
    }
  }
  return { width: width * factor, height: height * factor, channels, data };
}
