import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../src/engine/device.ts';
import { kernel, linearGrid } from '../../src/engine/kernel.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { itemText } from '../../src/engine/texels.ts';
import { lcg, testDevice } from '../support.ts';

const test = suite('texels');

const back = kernel(
  'texels test',
  `struct Params { count: u32 }
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { if (id.x < params.count) { y[id.x] = item(id.x); } }
${itemText('', { binding: 0, name: 'x', type: 'vec4<f32>' }, true)}`,
);

function copied(device: Device, x: Tensor): Tensor {
  const y = device.empty(x.shape);
  const count = x.size / 4;
  device.run(back, { x: device.texelsOf(x), y }, { count }, linearGrid(count));
  return y;
}

const random = (device: Device, size: number) =>
  device.tensor(Float32Array.from({ length: size }, lcg(size)), [size]);

test('a kernel finds what was copied there: less than a row, whole rows, rows and a rest', async () => {
  const device = await testDevice();
  for (const size of [4, 2044, 2048, 4096, 9000]) {
    const x = random(device, size);
    const want = await x.floats();
    const eager = device.scope(() => copied(device, x));
    assert.equal(await eager.floats(), want, `${size} elements`);
    const program = device.record('texels', () => copied(device, x));
    for (const _ of [0, 1]) assert.equal(await program.run().floats(), want, `${size} elements, recorded`);
    program.dispose();
    eager.dispose();
    x.dispose();
  }
});

test('a program plans texels apart from buffers and gives them back', async () => {
  const device = await testDevice();
  const x = random(device, 4096);
  const before = device.memory();
  const program = device.record('texels', () => copied(device, copied(device, x)));
  // Two copies that do not live at once, a tensor between them and the result.
  assert.is(program.cost.plannedBytes, 3 * x.bytes);
  const created = device.memory().buffersCreated;
  await program.run().floats();
  const first = device.memory().buffersCreated;
  await program.run().floats();
  assert.is(device.memory().buffersCreated, first, 'a replay makes nothing');
  assert.ok(first - created <= 1, 'but what reads the result');
  program.dispose();
  assert.is(device.memory().liveBytes, before.liveBytes);
  x.dispose();
});

test('what texels cannot hold, and where they cannot stand, is refused', async () => {
  const device = await testDevice();
  device.scope(() => {
    const odd = device.zeros([6]);
    assert.throws(() => device.texelsOf(odd), /texels: f32 \[6\] is not f32 in a multiple of 4 elements/);
    const words = device.zeros([4], 'u32');
    assert.throws(() => device.texelsOf(words), /texels: u32 \[4\] is not f32/);
    const x = device.zeros([4]);
    const y = device.empty([4]);
    assert.throws(() => device.run(back, { x, y }, { count: 1 }, [1, 1, 1]), /x is not in texels/);
    const texels = device.texelsOf(x);
    assert.throws(() => device.accumulate(texels, x), /accumulate.*: a is in texels/);
    assert.throws(() => device.bufferOf(texels), /tensor \[4\] is in texels, which only kernels reach/);
  });
});

test.run();
