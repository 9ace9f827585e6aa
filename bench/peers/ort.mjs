/**
 * onnxruntime-web, forward only: a graph of the operation's ONNX nodes, channels first. `webgpu` is its WebGPU build
 * on the bench's adapter, `wasm` its WebAssembly build, which in Node has no other provider.
 */
import { channelsFirst, channelsLast, kernelOut } from './layout.mjs';
import { onnxModel } from './onnx.mjs';

/** @param provider `webgpu` (needs `navigator.gpu`) or `wasm` */
export async function open({ provider, threads }) {
  const wasm = provider === 'wasm';
  const ort = await import(wasm ? 'onnxruntime-web' : 'onnxruntime-web/webgpu');
  ort.env.logLevel = 'error';
  if (wasm) ort.env.wasm.numThreads = threads;
  const like = ({ shape }) => shape;
  const plan = {
    conv2d: ({ x, w }) => ({
      inputs: { x: channelsFirst(x), w: kernelOut(w) },
      nodes: [
        {
          op: 'Conv',
          inputs: ['x', 'w'],
          outputs: ['y'],
          attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1] },
        },
      ],
      shape: (i) => [i.x.shape[0], i.w.shape[0], i.x.shape[2], i.x.shape[3]],
      back: channelsLast,
    }),
    matmul: ({ a, b }) => ({
      inputs: { a, b },
      nodes: [{ op: 'MatMul', inputs: ['a', 'b'], outputs: ['y'] }],
      shape: (i) => [i.a.shape[0], i.b.shape[1]],
    }),
    'group-norm': ({ x, scale, bias }, { groups, eps }) => ({
      inputs: { x: channelsFirst(x), scale, bias },
      nodes: [
        {
          op: 'GroupNormalization',
          inputs: ['x', 'scale', 'bias'],
          outputs: ['u'],
          attributes: { num_groups: groups, epsilon: { float: eps } },
        },
        { op: 'Sigmoid', inputs: ['u'], outputs: ['s'] },
        { op: 'Mul', inputs: ['u', 's'], outputs: ['y'] },
      ],
      shape: (i) => like(i.x),
      back: channelsLast,
    }),
    attention: ({ q, k, v }) => ({
      inputs: { q, k, v, f: { data: Float32Array.of(q.shape[2] ** -0.5), shape: [1] } },
      nodes: [
        { op: 'Transpose', inputs: ['k'], outputs: ['kt'], attributes: { perm: [0, 2, 1] } },
        { op: 'MatMul', inputs: ['q', 'kt'], outputs: ['s'] },
        { op: 'Mul', inputs: ['s', 'f'], outputs: ['t'] },
        { op: 'Softmax', inputs: ['t'], outputs: ['p'], attributes: { axis: 2 } },
        { op: 'MatMul', inputs: ['p', 'v'], outputs: ['y'] },
      ],
      shape: (i) => like(i.q),
    }),
  };

  return {
    name: `ort-web ${provider}`,
    about: `onnxruntime-web ${ort.env.versions?.web ?? ''}, ${wasm ? `WebAssembly, ${threads} threads` : 'WebGPU'}`,
    async close() {
      // Its device outlives its sessions and would keep the process from ending.
      if (!wasm) (await ort.env.webgpu.device)?.destroy();
    },
    async prepare(c) {
      if (c.pass !== 'forward') throw new Error('no gradients');
      const { inputs, nodes, shape, back } = plan[c.op](c.inputs, c);
      const shapes = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, t.shape]));
      const model = onnxModel(nodes, shapes, { y: shape(inputs) });
      // On WebGPU inputs and outputs stay on the device.
      // Threads that spin for work would take the processor from those measured next.
      const quiet = { extra: { session: { intra_op: { allow_spinning: '0' } } } };
      const options = wasm ? quiet : { preferredOutputLocation: 'gpu-buffer' };
      const session = await ort.InferenceSession.create(model, {
        executionProviders: [provider],
        ...options,
      });
      const feeds = {};
      const buffers = [];
      for (const [name, t] of Object.entries(inputs)) {
        if (wasm) {
          feeds[name] = new ort.Tensor('float32', t.data, t.shape);
          continue;
        }
        const device = await ort.env.webgpu.device;
        const size = Math.ceil(t.data.byteLength / 16) * 16;
        const buffer = device.createBuffer({ size, usage: 0x80 | 0x4 | 0x8 });
        device.queue.writeBuffer(buffer, 0, t.data);
        buffers.push(buffer);
        feeds[name] = ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: t.shape });
      }
      return {
        async once() {
          const { y } = await session.run(feeds);
          if (!wasm) await (await ort.env.webgpu.device).queue.onSubmittedWorkDone();
          y.dispose();
        },
        async result() {
          const { y } = await session.run(feeds);
          const data = wasm ? y.data : await y.getData();
          const host = { data: Float32Array.from(data), shape: y.dims };
          y.dispose();
          return [back ? back(host).data : host.data];
        },
        async dispose() {
          await session.release();
          for (const buffer of buffers) buffer.destroy();
        },
      };
    },
  };
}
