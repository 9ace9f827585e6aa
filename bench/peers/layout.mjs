/** Channels last to channels first and back, and HWIO to OIHW, on the host. */
function permute(data, shape, axes) {
  const out = new Float32Array(data.length);
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const to = axes.map((a) => shape[a]);
  const by = axes.map((a) => strides[a]);
  const index = to.map(() => 0);
  for (let i = 0, at = 0; i < out.length; i++) {
    out[i] = data[at];
    for (let d = to.length - 1; d >= 0; d--) {
      at += by[d];
      if (++index[d] < to[d]) break;
      at -= by[d] * to[d];
      index[d] = 0;
    }
  }
  return { data: out, shape: to };
}

/** NHWC to NCHW. */
export const channelsFirst = ({ data, shape }) => permute(data, shape, [0, 3, 1, 2]);
/** NCHW to NHWC. */
export const channelsLast = ({ data, shape }) => permute(data, shape, [0, 2, 3, 1]);
/** HWIO to OIHW. */
export const kernelOut = ({ data, shape }) => permute(data, shape, [3, 2, 0, 1]);
/** OIHW to HWIO. */
export const kernelIn = ({ data, shape }) => permute(data, shape, [2, 3, 1, 0]);
