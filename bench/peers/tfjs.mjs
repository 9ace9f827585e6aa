/** TensorFlow.js on its WebGPU backend, on a device of the adapter that the bench uses. Channels last, as ours. */
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** @param gpu the GPU object behind the bench's adapter, as `navigator.gpu` */
export async function open({ gpu }) {
  const tf = require('@tensorflow/tfjs-core');
  const { WebGPUBackend } = require('@tensorflow/tfjs-backend-webgpu');
  const adapter = await gpu.requestAdapter();
  const names = [
    'maxComputeWorkgroupStorageSize',
    'maxComputeWorkgroupsPerDimension',
    'maxStorageBufferBindingSize',
    'maxBufferSize',
    'maxComputeWorkgroupSizeX',
    'maxComputeInvocationsPerWorkgroup',
  ];
  const requiredLimits = Object.fromEntries(names.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ requiredLimits });
  let failure = null;
  device.addEventListener('uncapturederror', (event) => {
    event.preventDefault();
    failure ??= new Error(event.error.message.split('\n')[0]);
  });
  const backend = new WebGPUBackend(device, adapter.info);
  tf.removeBackend('webgpu'); // the one it registers itself asks for another adapter
  tf.registerBackend('webgpu', () => backend);
  await tf.setBackend('webgpu');
  await tf.ready();

  const graphs = {
    'conv2d forward': ({ x, w }) => tf.conv2d(x, w, 1, 'same'),
    'conv2d input-grad': ({ x, w, dy }) => tf.conv2dTranspose(dy, w, x.shape, 1, 'same'),
    'conv2d weight-grad': ({ x, w, dy }) =>
      tf.engine().runKernel('Conv2DBackpropFilter', { x, dy }, convAttributes(w.shape)),
    'matmul forward': ({ a, b }) => tf.matMul(a, b),
    'group-norm forward': ({ x, scale, bias }, { groups, eps }) => {
      const { h } = normalised(x, groups, eps);
      const u = tf.add(tf.mul(tf.reshape(h, x.shape), scale), bias);
      return tf.mul(u, tf.sigmoid(u));
    },
    'group-norm input-grad': ({ x, scale, bias, dy }, { groups, eps }) => {
      // What a tape would have kept is computed again: it has no kernel of its own for this.
      const { h, rstd, split, over } = normalised(x, groups, eps);
      const u = tf.add(tf.mul(tf.reshape(h, x.shape), scale), bias);
      const s = tf.sigmoid(u);
      const du = tf.mul(dy, tf.mul(s, tf.add(1, tf.mul(u, tf.sub(1, s)))));
      const k = tf.reshape(tf.mul(du, scale), split);
      const inner = tf.sub(tf.sub(k, tf.mean(k, over, true)), tf.mul(h, tf.mean(tf.mul(k, h), over, true)));
      return tf.reshape(tf.mul(inner, rstd), x.shape);
    },
    'attention forward': ({ q, k, v }) => tf.matMul(weights(q, k), v),
    'attention input-grad': ({ q, k, v, dy, p }) => {
      const dp = tf.matMul(dy, v, false, true);
      const ds = tf.mul(tf.mul(p, tf.sub(dp, tf.sum(tf.mul(dp, p), -1, true))), q.shape[2] ** -0.5);
      return [tf.matMul(ds, k), tf.matMul(ds, q, true), tf.matMul(p, dy, true)];
    },
  };
  const convAttributes = (filterShape) => ({
    strides: 1,
    pad: 'same',
    dataFormat: 'NHWC',
    dimRoundingMode: undefined,
    filterShape,
  });
  const weights = (q, k) => tf.softmax(tf.mul(tf.matMul(q, k, false, true), q.shape[2] ** -0.5));
  const normalised = (x, groups, eps) => {
    const [n, h, w, c] = x.shape;
    const split = [n, h * w, groups, c / groups];
    const over = [1, 3];
    const y = tf.reshape(x, split);
    const { mean, variance } = tf.moments(y, over, true);
    const rstd = tf.rsqrt(tf.add(variance, eps));
    return { h: tf.mul(tf.sub(y, mean), rstd), rstd, split, over };
  };

  return {
    name: 'tfjs',
    about: `tfjs-backend-webgpu ${tf.version_core}`,
    /** @param c { op, pass, inputs: { name: { shape, data } }, ...sizes } */
    async prepare(c) {
      const graph = graphs[`${c.op} ${c.pass}`];
      if (!graph) throw new Error(`no ${c.op} ${c.pass}`);
      const tensors = Object.fromEntries(
        Object.entries(c.inputs).map(([name, { data, shape }]) => [name, tf.tensor(data, shape)]),
      );
      // Kept from the forward pass, as a tape does.
      if (c.op === 'attention' && c.pass !== 'forward')
        tensors.p = tf.tidy(() => weights(tensors.q, tensors.k));
      const run = () => [tf.tidy(() => graph(tensors, c))].flat();
      return {
        async once() {
          const out = run();
          backend.endComputePassEncoder();
          backend.submitQueue();
          await device.queue.onSubmittedWorkDone();
          tf.dispose(out);
          if (failure) throw failure;
        },
        async result() {
          const out = run();
          const data = [];
          for (const t of out) data.push(await t.data());
          tf.dispose(out);
          return data;
        },
        dispose: () => tf.dispose(Object.values(tensors)),
      };
    },
  };
}
