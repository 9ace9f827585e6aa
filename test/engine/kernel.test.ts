/** Kernels as text: constants, reflection, params; and what a device says to a bad one. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CmapError, KernelError } from '../../src/engine/errors.ts';
import { assemble, kernel, linearGrid, numbered, packParams } from '../../src/engine/kernel.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { affine } from '../../src/kernels/elementwise.ts';
import { newDevice, root, testDevice } from '../support.ts';

const test = suite('kernel');

const source = `
struct Params { count: u32, shift: f32, offset: i32, scale: vec2<f32>, last: vec3<u32> }
@group(0) @binding(2) var<storage, read_write> y: array<T>;
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<uniform> params: Params;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < params.count) { y[id.x] = select(x[id.x], x[id.x] * FACTOR, ON) + T(params.shift); }
}`;

test('constants stand before the source, types as aliases, directives before all', () => {
  const k = assemble('kernel test', `enable f16;\nrequires a;\n${source}`, {
    T: 'f32',
    FACTOR: 2.5,
    ON: true,
  });
  assert.is(
    k.code.indexOf('enable f16;\nrequires a;\nalias T = f32;\nconst FACTOR = 2.5;\nconst ON = true;\n'),
    0,
  );
  assert.is(k.code.match(/enable f16/g)?.length, 1);
  assert.is(k.name, 'kernel test[T=f32 FACTOR=2.5 ON=true]');
});

test('bindings and params are read off the source', () => {
  const k = kernel('kernel test 2', source, { T: 'vec4<f32>', FACTOR: 1, ON: false });
  assert.equal(k.bindings, [
    { name: 'x', index: 0, writable: false, texels: false, floats: true },
    { name: 'y', index: 2, writable: true, texels: false, floats: true },
  ]);
  assert.is(k.paramsIndex, 1);
  assert.equal(
    k.params.map((p) => [p.name, p.type, p.offset, p.length]),
    [
      ['count', 'u32', 0, 1],
      ['shift', 'f32', 4, 1],
      ['offset', 'i32', 8, 1],
      ['scale', 'f32', 16, 2],
      ['last', 'u32', 32, 3],
    ],
  );
  assert.is(k.paramsSize, 48);
});

test('the same arguments give the same kernel; one name, two sources is an error', () => {
  const constants = { T: 'f32', FACTOR: 3, ON: true };
  const k = kernel('kernel test 3', source, constants);
  assert.is(kernel('kernel test 3', source, { ...constants }), k);
  assert.is.not(kernel('kernel test 3', source, { ...constants, FACTOR: 4 }), k);
  assert.throws(
    () => kernel('kernel test 3', `${source} `, constants),
    /two different sources have this name/,
  );
});

test('params are packed where the struct has them', () => {
  const k = kernel('kernel test 2', source, { T: 'vec4<f32>', FACTOR: 1, ON: false });
  const view = new DataView(new ArrayBuffer(128));
  packParams(k, { count: 0xffffffff, shift: 1.5, offset: -2, scale: [3, 4], last: [5, 6, 7] }, view, 64);
  assert.is(view.getUint32(64, true), 0xffffffff);
  assert.is(view.getFloat32(68, true), 1.5);
  assert.is(view.getInt32(72, true), -2);
  assert.equal([view.getFloat32(80, true), view.getFloat32(84, true)], [3, 4]);
  assert.equal(
    [96, 100, 104].map((at) => view.getUint32(at, true)),
    [5, 6, 7],
  );
});

test('missing, unknown and ill-sized params are named', () => {
  const k = kernel('kernel test 2', source, { T: 'vec4<f32>', FACTOR: 1, ON: false });
  const view = new DataView(new ArrayBuffer(256));
  const good = { count: 1, shift: 1, offset: 1, scale: [1, 2], last: [1, 2, 3] };
  const { shift, ...without } = good;
  assert.is(shift, 1);
  const name = 'kernel test 2[T=vec4<f32> FACTOR=1 ON=false]';
  const rows: [Record<string, number | number[]>, string][] = [
    [without, `${name}: params.shift is missing`],
    [{ ...good, extra: 1, more: 2 }, `${name}: params has no field extra, more`],
    [{ ...good, scale: 1 }, `${name}: params.scale wants 2 numbers, got 1`],
    [{ ...good, last: [1, 2] }, `${name}: params.last wants 3 numbers, got [1,2]`],
    [{ ...good, last: [1, 2, 3, 4] }, `${name}: params.last wants 3 numbers, got [1,2,3,4]`],
  ];
  for (const [values, message] of rows) {
    assert.throws(
      () => packParams(k, values, view, 0),
      (e: Error) => e instanceof CmapError && e.message === message,
    );
  }
});

test('params of other types, and text that is not WGSL, are refused when the kernel is made', () => {
  const matrix = source.replace('scale: vec2<f32>', 'scale: mat2x2<f32>');
  assert.throws(
    () => assemble('kernel test 4', matrix, { T: 'f32', FACTOR: 1, ON: true }),
    /params: scale: type .* is not a scalar or vector/,
  );
  assert.throws(
    () => assemble('kernel test 5', 'fn main( {'),
    (e: Error) =>
      e instanceof KernelError &&
      /^kernel kernel test 5: the source was not understood: [^\n]*$/.test(e.message) &&
      e.source.includes('   1 | fn main( {'),
  );
});

test('linear grids cover all invocations within the limit', () => {
  for (const [n, workgroup] of [
    [0, 64],
    [1, 64],
    [64, 64],
    [65, 64],
    [65535 * 64, 64],
    [65535 * 64 + 1, 64],
    [2 ** 31, 64],
    [2 ** 31, 256],
  ] as const) {
    const [x, y, z] = linearGrid(n, workgroup);
    assert.ok(x >= 1 && x <= 65535 && y >= 1 && y <= 65535 && z === 1, `${n}: ${x} ${y}`);
    assert.ok(x * y * workgroup >= n);
  }
});

test('kernels on a linear grid take its rows for what they are', () => {
  const folder = join(root, 'src');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
    file.endsWith('.wgsl'),
  );
  let checked = 0;
  for (const file of files) {
    const text = readFileSync(join(folder, file), 'utf8');
    const size = /@workgroup_size\((\w+)\)/.exec(text)?.[1];
    const lines = text.split('\n').filter((line) => line.includes('groups.x'));
    for (const line of lines) {
      const wanted = line.includes('group.x')
        ? /= group\.x \+ group\.y \* groups\.x;$/
        : new RegExp(`= id\\.x \\+ id\\.y \\* groups\\.x \\* ${size}u;$`);
      assert.match(line, wanted, `${file}: ${line.trim()} of workgroups of ${size}`);
      checked++;
    }
  }
  assert.ok(checked > 80, `${checked}`);
});

const bad = `@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1)
fn main() { y[0] = no_such_value; }`;

test('WGSL that does not compile is a KernelError of one line, with numbered source', async () => {
  const device = await testDevice();
  const k = assemble('bad test', bad, { ANY: 1 });
  const told = (e: unknown) => {
    assert.instance(e, KernelError);
    const error = e as KernelError;
    assert.is(
      error.message,
      "kernel bad test[ANY=1]: line 4: unresolved value 'no_such_value': fn main() { y[0] = no_such_value; }",
    );
    assert.is(error.source, numbered(k.code));
    assert.match(error.source, '   4 | fn main()');
  };
  const y = device.empty([1]);
  // Eager: at the next read or sync, each time it is used.
  for (let i = 0; i < 2; i++) {
    device.run(k, { y }, {}, [1, 1, 1]);
    await (i === 0 ? y.read() : device.sync()).then(() => assert.unreachable('read succeeded'), told);
  }
  // Warm-up of a program: at once.
  const program = device.record('bad', () => device.run(k, { y }, {}, [1, 1, 1]));
  await program.prepare().then(() => assert.unreachable('prepare succeeded'), told);
  program.dispose();
  y.dispose();
  // The device is as good as before.
  const x = device.full([2], 4);
  const fine = affine(x, 0.5);
  assert.equal([...(await fine.floats())], [2, 2]);
  await device.sync();
  x.dispose();
  fine.dispose();
});

test('what a refused kernel may have emptied is not read as numbers, what is sound is', async () => {
  const device = await newDevice();
  const k = assemble('bad test', bad, { ANY: 2 });
  const w = device.tensor([1, 2, 3]);
  await device.sync();
  const refused = (x: Tensor) =>
    x.floats().then(
      () => assert.unreachable('read succeeded'),
      (e) => assert.instance(e, KernelError),
    );
  // The driver drops a submission whole: what ran before and after in it, and what is made of that, is lost.
  const before = affine(w, 10);
  const y = device.empty([1]);
  device.run(k, { y }, {}, [1, 1, 1]);
  const after = affine(w, 100);
  for (const x of [before, y, after, before, after, affine(after, 2)]) await refused(x);
  assert.equal([...(await w.floats())], [1, 2, 3]);
  assert.equal([...(await affine(w, 2).floats())], [2, 4, 6]);
  // Of two reads under way, the one of the refused submission is not given its zeros.
  device.run(k, { y }, {}, [1, 1, 1]);
  await refused(w);
  y.write([7]);
  assert.equal([...(await y.floats())], [7]);
  device.close();
});

test('integers are not taken for floats, the bits of floats may be looked at', async () => {
  const device = await testDevice();
  const source = (T: string) => `
    @group(0) @binding(0) var<storage, read> x: array<${T}>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(1) fn main() { y[0] = u32(x[0].x); }`;
  const integers = device.tensor([1, 2], [2], 'u32');
  const floats = device.tensor([3, 4]);
  const y = device.zeros([1], 'u32');
  const ofFloats = kernel('of floats', source('vec2<f32>'));
  assert.throws(
    () => device.run(ofFloats, { x: integers, y }, {}, [1, 1, 1]),
    /x is u32, the kernel has it as f32/,
  );
  device.run(ofFloats, { x: floats, y }, {}, [1, 1, 1]);
  assert.equal([...(await y.read())], [3]);
  device.run(kernel('of bits', source('vec2<u32>')), { x: floats, y }, {}, [1, 1, 1]);
  assert.equal([...(await y.read())], [0x40400000]);
  for (const tensor of [integers, floats, y]) tensor.dispose();
});

test('run checks its tensors and its grid', async () => {
  const device = await testDevice();
  const k = kernel(
    'run test',
    `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { y[0] = x[0]; }`,
  );
  const x = device.full([1], 1);
  const y = device.empty([1]);
  assert.throws(() => device.run(k, { x }, {}, [1, 1, 1]), /run test: no tensor given for y/);
  assert.throws(() => device.run(k, { x, y }, { n: 1 }, [1, 1, 1]), /run test: params has no field n/);
  assert.throws(() => device.run(k, { x, y }, {}, [1, 0, 1]), /run test: grid \[1,0,1\] is outside 1\.\./);
  assert.throws(() => device.run(k, { x, y }, {}, [70_000, 1, 1]), /grid \[70000,1,1\] is outside 1\.\.\d+/);
  assert.throws(
    () => device.run(k, { x, y: x }, {}, [1, 1, 1]),
    /run test: y is written and shares memory with another argument/,
  );
  const alias = x.alias([1, 1]);
  assert.throws(() => device.run(k, { x, y: alias }, {}, [1, 1, 1]), /shares memory/);
  for (const t of [x, y, alias]) t.dispose();
});

test.run();
