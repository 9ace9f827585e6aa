import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { runChild } from '../src/engine/adapter.node.ts';
import {
  adviceFor,
  deviceDescriptor,
  listAdapters,
  mesaVersion,
  openAdapter,
} from '../src/engine/adapter.ts';
import { AdapterError } from '../src/engine/errors.ts';

// What an environment variable or a crash does is seen in a process of its own: this file, run again.
const children: Record<string, () => Promise<void>> = {
  /** The adapter that this environment gives. */
  async open() {
    const { adapter, info } = await openAdapter();
    const device = await adapter.requestDevice(deviceDescriptor(adapter));
    const squares = await square(device, 100);
    const { name, reason } = info;
    process.stdout.write(JSON.stringify({ name, reason, right: squares.every((y, i) => y === i * i) }));
  },
  /** Crashes within a hundred rounds when the gpu object is not kept. */
  async collect() {
    const make = async () => {
      const { adapter } = await openAdapter({ adapter: 'swiftshader' });
      return adapter.requestDevice();
    };
    const device = await make();
    for (let round = 0; round < 150; round++) {
      if (round % 25 === 0) globalThis.gc!();
      await square(device, 64);
    }
    process.stdout.write(JSON.stringify({ done: true }));
  },
};

async function child(name: keyof typeof children, env: NodeJS.ProcessEnv = {}, flags: string[] = []) {
  const all = { ...process.env, CMAP_ADAPTER: '', ...env, CMAP_TEST_CHILD: name };
  const args = [...flags, fileURLToPath(import.meta.url)];
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: all, timeout: 60_000 });
  return JSON.parse(stdout);
}

async function square(device: GPUDevice, count: number): Promise<Float32Array> {
  const size = count * 4;
  const x = device.createBuffer({
    size,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  });
  const back = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  device.queue.writeBuffer(
    x,
    0,
    Float32Array.from({ length: count }, (_, i) => i),
  );
  const pipeline = pipelineOf(device);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: x } }],
    }),
  );
  pass.dispatchWorkgroups(Math.ceil(count / 64));
  pass.end();
  encoder.copyBufferToBuffer(x, 0, back, 0, size);
  device.queue.submit([encoder.finish()]);
  await back.mapAsync(GPUMapMode.READ);
  const result = new Float32Array(back.getMappedRange()).slice();
  for (const buffer of [x, back]) buffer.destroy();
  return result;
}

const pipelines = new WeakMap<GPUDevice, GPUComputePipeline>();

function pipelineOf(device: GPUDevice): GPUComputePipeline {
  let pipeline = pipelines.get(device);
  if (!pipeline) {
    const code = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        if (id.x < arrayLength(&x)) { x[id.x] *= x[id.x]; }
      }`;
    pipeline = device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code }) },
    });
    pipelines.set(device, pipeline);
  }
  return pipeline;
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, AdapterError);
    assert.not.match((error as Error).message, '\n');
    return (error as Error).message;
  }
  return assert.unreachable('it should have been refused') as never;
}

function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'cmap-test-'));
}

const bundledHere = process.platform === 'linux' && process.arch === 'x64';

test('every adapter that is listed as usable computes', async () => {
  const list = await listAdapters();
  assert.ok(list.length >= 1);
  for (const { name, usable, why } of list) {
    assert.ok(why);
    if (!usable) continue;
    const { adapter, info } = await openAdapter({ adapter: name });
    assert.is(info.name, name);
    assert.equal(JSON.parse(JSON.stringify(info)), info);
    assert.ok((info.limits.maxStorageBufferBindingSize as number) >= 2 ** 27);
    const device = await adapter.requestDevice(deviceDescriptor(adapter));
    assert.is(device.limits.maxBufferSize, info.limits.maxBufferSize);
    assert.is(device.features.has('shader-f16'), info.features.includes('shader-f16'));
    assert.ok((await square(device, 1000)).every((y, i) => y === i * i));
    device.destroy();
  }
  assert.is(
    adviceFor(list) === '',
    list.some((a) => a.usable && a.record!.kind === 'hardware'),
  );
});

test('the null backend has every feature a kernel may ask for', async () => {
  const { adapter, info } = await openAdapter({ adapter: 'null', profile: 'fast' });
  assert.is(info.kind, 'null');
  assert.is(info.profile, 'fast');
  assert.ok(info.toggles.enabled.includes('disable_robustness'));
  const device = await adapter.requestDevice(deviceDescriptor(adapter));
  for (const feature of [
    'shader-f16',
    'subgroups',
    'timestamp-query',
    'chromium-experimental-subgroup-matrix',
  ])
    assert.ok(device.features.has(feature), feature);
});

test('the profile: fast, or safe where it or the environment says so', async () => {
  const before = process.env.CMAP_PROFILE;
  const open = async (env: string, profile?: 'safe' | 'fast') => {
    process.env.CMAP_PROFILE = env;
    return (await openAdapter({ adapter: 'null', ...(profile ? { profile } : {}) })).info;
  };
  try {
    assert.is((await open('')).profile, 'fast');
    const safe = await open('safe');
    assert.is(safe.profile, 'safe');
    assert.not.ok(safe.toggles.enabled.includes('disable_robustness'));
    assert.is((await open('safe', 'fast')).profile, 'fast');
    assert.match(await refusal(open('quick')), "profile 'quick' is none of fast, safe");
  } finally {
    if (before === undefined) delete process.env.CMAP_PROFILE;
    else process.env.CMAP_PROFILE = before;
  }
});

test('the same gpu object serves again, and gives a second device', async () => {
  const [a, b] = [await openAdapter({ adapter: 'null' }), await openAdapter({ adapter: 'null' })];
  assert.is(a.gpu, b.gpu);
  assert.is.not(a.adapter, b.adapter);
  await Promise.all([a.adapter.requestDevice(), b.adapter.requestDevice()]);
});

test('an unknown name is refused in one line that tells what there is', async () => {
  const message = await refusal(openAdapter({ adapter: 'voodoo' }));
  assert.match(message, "adapter 'voodoo' is none of");
  assert.match(message, 'swiftshader');
  assert.match(message, 'CMAP_ADAPTER');
});

test('broken drivers: the bundled SwiftShader takes over, from a fresh cache', async () => {
  if (!bundledHere) return;
  const folder = temporary();
  try {
    const manifest = join(folder, 'broken_icd.json');
    const library_path = './nothing.so';
    writeFileSync(
      manifest,
      JSON.stringify({ file_format_version: '1.0.0', ICD: { library_path, api_version: '1.3.0' } }),
    );
    const empty = join(folder, 'none');
    // Two processes unpack at once.
    const env = {
      VK_DRIVER_FILES: manifest,
      XDG_CACHE_HOME: folder,
      PATH: process.env.PATH,
      CMAP_ADAPTER: 'auto',
      HOME: empty,
    };
    const both = await Promise.all([
      child('open', { ...env, CMAP_ADAPTER: 'swiftshader' }),
      child('open', { ...env, CMAP_ADAPTER: 'swiftshader' }),
    ]);
    for (const { name, reason, right } of both) {
      assert.is(name, 'SwiftShader (bundled)');
      assert.is(reason, 'CMAP_ADAPTER=swiftshader asks for it.');
      assert.ok(right);
    }
    assert.is(readdirSync(join(folder, 'cmap')).filter((entry) => entry.startsWith('swiftshader')).length, 1);
    const { name, reason } = await child('open', env);
    if (name === 'SwiftShader (bundled)') assert.match(reason, 'system drivers: no adapter');
    else assert.match(name, 'llvmpipe'); // found beside the broken one
    assert.match(
      await refusal(child('open', { ...env, CMAP_ADAPTER: 'hardware' }).catch(asAdapterError)),
      'no adapter',
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** The child's uncaught AdapterError, as one. */
function asAdapterError(error: { stderr: string }): never {
  throw new AdapterError(/AdapterError: (.*)/.exec(error.stderr)?.[1] ?? error.stderr);
}

test('a driver that crashes or hangs in its trial run is a reason, not a crash', async () => {
  const crash = await runChild('process.abort()', process.env);
  assert.match(crash.problem, 'crashed in a trial run (SIGABRT)');
  const hang = await runChild('setInterval(() => {}, 1000)', process.env, 300);
  assert.match(hang.problem, 'hung');
});

test('the gpu object outlives garbage collection', async () => {
  if (!bundledHere) return;
  assert.equal(await child('collect', {}, ['--expose-gc']), { done: true });
});

test('Mesa versions', () => {
  assert.is(mesaVersion('llvmpipe: Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6) 0.0.1'), '25.0.7');
  assert.is(mesaVersion('SwiftShader driver 5.0.0'), null);
});

test('f16 on NVIDIA and fine timestamps are asked for when the instance is made', async () => {
  const { info } = await openAdapter({ adapter: 'null' });
  assert.ok(info.toggles.enabled.includes('vulkan_enable_f16_on_nvidia'));
  assert.ok(info.toggles.disabled.includes('timestamp_quantization'));
});

const chosen = process.env.CMAP_TEST_CHILD;
if (chosen) await (children[chosen] as () => Promise<void>)();
else test.run();
