/** jax-js on WebGPU, compiled by its jit. Convolutions and norms are channels first, as its own are. */
import { channelsFirst, channelsLast, kernelIn, kernelOut } from './layout.mjs';

/** `navigator.gpu` must be the GPU object behind the bench's adapter. */
export async function open() {
  const jax = await import('@jax-js/jax');
  const { numpy: np, lax, nn } = jax;
  const devices = await jax.init('webgpu');
  if (!devices.includes('webgpu')) throw new Error('jax-js found no WebGPU adapter');
  jax.defaultDevice('webgpu');
  const array = ({ data, shape }) => np.array(data).reshape(shape);
  const pads = [
    [1, 1],
    [1, 1],
  ];
  const conv = (x, w) => lax.convGeneralDilated(x, w, [1, 1], pads);
  const scores = (q, k) => np.matmul(q, np.matrixTranspose(k));
  const normalised = (x, groups, eps) => {
    const [n, c, h, w] = x.shape;
    const y = x.reshape([n, groups, (c / groups) * h * w]);
    const d = y.ref.sub(np.mean(y, -1, { keepdims: true }));
    const variance = np.mean(np.square(d.ref), -1, { keepdims: true });
    return d.div(np.sqrt(variance.add(eps))).reshape([n, c, h, w]);
  };
  const normSilu =
    ({ groups, eps }) =>
    (x, scale, bias) =>
      nn.silu(normalised(x, groups, eps).mul(scale).add(bias));
  const attend = (q, k, v) => {
    const factor = q.shape[2] ** -0.5;
    return np.matmul(nn.softmax(scores(q, k).mul(factor), -1), v);
  };
  /** d sum(f · dy) for the arguments named; jit leaves out what only the value needs. */
  const gradient =
    (f, argnums) =>
    (dy, ...inputs) =>
      jax.grad((...primals) => np.sum(f(...primals).mul(dy)), { argnums })(...inputs);

  const image = (t) => array(channelsFirst(t));
  const perChannel = ({ data }) => np.array(data).reshape([1, data.length, 1, 1]);
  const plan = {
    'conv2d forward': ({ x, w }) => ({ f: conv, args: [image(x), array(kernelOut(w))], back: channelsLast }),
    'conv2d input-grad': ({ x, w, dy }) => ({
      f: gradient(conv, 0),
      args: [image(dy), image(x), array(kernelOut(w))],
      back: channelsLast,
    }),
    'conv2d weight-grad': ({ x, w, dy }) => ({
      f: gradient(conv, 1),
      args: [image(dy), image(x), array(kernelOut(w))],
      back: kernelIn,
    }),
    'matmul forward': ({ a, b }) => ({ f: (x, y) => np.matmul(x, y), args: [array(a), array(b)] }),
    'group-norm forward': ({ x, scale, bias }, c) => ({
      f: normSilu(c),
      args: [image(x), perChannel(scale), perChannel(bias)],
      back: channelsLast,
    }),
    'group-norm input-grad': ({ x, scale, bias, dy }, c) => ({
      f: gradient(normSilu(c), 0),
      args: [image(dy), image(x), perChannel(scale), perChannel(bias)],
      back: channelsLast,
    }),
    'attention forward': ({ q, k, v }) => ({ f: attend, args: [array(q), array(k), array(v)] }),
    'attention input-grad': ({ q, k, v, dy }) => ({
      f: gradient(attend, [0, 1, 2]),
      args: [array(dy), array(q), array(k), array(v)],
    }),
  };

  return {
    name: 'jax-js',
    about: 'jax-js, WebGPU',
    async prepare(c) {
      const make = plan[`${c.op} ${c.pass}`];
      if (!make) throw new Error(`no ${c.op} ${c.pass}`);
      const { f, args, back = ({ data }) => ({ data }) } = make(c.inputs, c);
      await jax.blockUntilReady(args.map((a) => a.ref));
      const compiled = jax.jit(f);
      const run = () => [compiled(...args.map((a) => a.ref))].flat();
      return {
        async once() {
          const out = run();
          await jax.blockUntilReady(out);
          for (const a of out) a.dispose();
        },
        async result() {
          const data = [];
          for (const a of run()) {
            const { shape } = a;
            data.push(back({ data: await a.data(), shape }).data);
          }
          return data;
        },
        dispose() {
          for (const a of args) a.dispose();
        },
      };
    },
  };
}
