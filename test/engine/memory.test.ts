/** Lifetime: what a scope frees and keeps, that loops do not grow, and that the report counts bytes. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { vjp } from '../../src/engine/autograd.ts';
import { OutOfMemoryError } from '../../src/engine/errors.ts';
import { Pool, sizeClass } from '../../src/engine/pool.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { Adam } from '../../src/kernels/adam.ts';
import { attention } from '../../src/kernels/attention.ts';
import { batchNormTraining } from '../../src/kernels/batch-norm.ts';
import { add } from '../../src/kernels/broadcast.ts';
import { conv2d } from '../../src/kernels/conv2d.ts';
import { affine, square } from '../../src/kernels/elementwise.ts';
import { groupNorm } from '../../src/kernels/group-norm.ts';
import { mae } from '../../src/kernels/mae.ts';
import { linear, matmul } from '../../src/kernels/matmul.ts';
import { pixelShuffle, pixelUnshuffle } from '../../src/kernels/pixel-shuffle.ts';
import { maxPool } from '../../src/kernels/pool.ts';
import { max } from '../../src/kernels/reduce.ts';
import { pad } from '../../src/kernels/shape.ts';
import { ssim } from '../../src/kernels/ssim.ts';
import { testDevice } from '../support.ts';

const test = suite('memory');

/** What must not grow. `freeBytes` is left out: memory that waits for reuse is counted by `buffersCreated`. */
async function held() {
  const { liveBytes, tensors, buffersCreated } = (await testDevice()).memory();
  return { liveBytes, tensors, buffersCreated };
}

/** A step that makes some ten tensors, with gradients and host data. */
function step(x: Tensor, adam: Adam, i: number): void {
  const { device } = x;
  device.scope(() => {
    const { pullback } = vjp((u) => square(affine(u, 0.5, i)), [x]);
    adam.step(pullback(device.tensor([1, 2, 3, 4, 5, 6], [6])));
  });
}

test('1,000 eager iterations leave nothing and create no buffer', async () => {
  const device = await testDevice();
  const x = device.zeros([6]);
  const adam = new Adam(device, x, { lr: 0.01 });
  for (let i = 0; i < 3; i++) step(x, adam, i);
  const before = await held();
  for (let i = 0; i < 1000; i++) step(x, adam, i);
  assert.equal(await held(), before);
  await x.floats();
  adam.dispose();
  x.dispose();
});

test('1,000 replays leave nothing and create no buffer, reads included', async () => {
  const device = await testDevice();
  const x = device.zeros([6]);
  const adam = new Adam(device, x, { lr: 0.01 });
  const program = device.record('step', () => step(x, adam, 1));
  program.run();
  await x.floats();
  const before = await held();
  for (let i = 0; i < 1000; i++) {
    program.run();
    if (i % 100 === 0) await x.floats();
  }
  assert.equal(await held(), before);
  program.dispose();
  adam.dispose();
  x.dispose();
});

test('100 programs recorded and disposed leave nothing', async () => {
  const device = await testDevice();
  const x = device.zeros([600]);
  const once = async () => {
    const program = device.record('passing', () => ({
      y: square(affine(x, 2, 1)),
      c: device.tensor([1, 2]),
    }));
    program.run();
    program.dispose();
    program.dispose();
    program.outputs.y.dispose();
    program.outputs.c.dispose();
  };
  await once();
  const before = await held();
  for (let i = 0; i < 100; i++) await once();
  assert.equal(await held(), before);
  x.dispose();
});

test('the report counts bytes by size class, live, free and at the peak', async () => {
  const device = await testDevice();
  device.trim();
  const start = device.memory();
  assert.is(start.freeBytes, 0);
  const t = device.empty([1000]); // 4,000 bytes in multiples of 256
  assert.is(device.memory().liveBytes - start.liveBytes, 4096);
  assert.is(device.memory().tensors - start.tensors, 1);
  assert.is(device.memory().buffersCreated - start.buffersCreated, 1);
  t.dispose();
  assert.is(device.memory().liveBytes, start.liveBytes);
  assert.is(device.memory().freeBytes, 4096);
  const again = device.empty([999]); // the same class: no new buffer, and it is no longer free
  assert.is(device.memory().freeBytes, 0);
  assert.is(device.memory().buffersCreated - start.buffersCreated, 1);
  again.dispose();
  const peak = device.memory().peakBytes;
  const big = device.empty([1 << 20]);
  assert.ok(device.memory().peakBytes >= Math.max(peak, start.liveBytes + (4 << 20)));
  big.dispose();
  device.trim();
  assert.is(device.memory().freeBytes, 0);
  assert.is(device.memory().liveBytes, start.liveBytes);
});

test('a size class wastes at most an eighth, and holds what it is for', () => {
  for (let bytes = 1; bytes < 2 ** 31; bytes = Math.ceil(bytes * 1.07)) {
    const size = sizeClass(bytes);
    assert.ok(size >= bytes && size % 256 === 0, `${bytes} -> ${size}`);
    assert.ok(size <= Math.max(bytes * 1.125, bytes + 256), `${bytes} -> ${size}`);
    assert.is(sizeClass(size), size);
  }
});

test('a scope keeps what it returns, in arrays and objects too, and frees the rest', async () => {
  const device = await testDevice();
  const before = device.memory().tensors;
  const all: Tensor[] = [];
  const make = (v: number) => {
    const t = device.full([2], v);
    all.push(t);
    return t;
  };
  const out = device.scope(() => {
    make(0);
    return { one: make(1), list: [make(2), { deep: make(3) }] as const, text: 'x', nothing: null };
  });
  assert.equal(
    all.map((t) => t.disposed),
    [true, false, false, false],
  );
  assert.equal([...(await out.list[1].deep.floats())], [3, 3]);
  // What an inner scope returns belongs to the outer one.
  let inner: Tensor | undefined;
  const kept = device.scope(() => {
    inner = device.scope(() => make(4));
    return device.keep(device.scope(() => make(5)));
  });
  assert.is(inner?.disposed, true);
  assert.equal([...(await kept.floats())], [5, 5]);
  for (const t of [out.one, out.list[0], out.list[1].deep, kept]) t.dispose();
  kept.dispose(); // a second time does nothing
  assert.is(device.memory().tensors, before);
});

test('keep takes a tensor out of every open scope', async () => {
  const device = await testDevice();
  let t: Tensor | undefined;
  device.scope(() => {
    device.scope(() => {
      t = device.keep(device.full([1], 8));
    });
  });
  assert.equal([...(await t!.floats())], [8]);
  t!.dispose();
});

test('a scope that throws frees all it made, and the scopes around it go on', async () => {
  const device = await testDevice();
  const before = device.memory();
  device.scope(() => {
    const outer = device.full([3], 1);
    assert.throws(
      () =>
        device.scope(() => {
          device.scope(() => device.full([3], 2));
          throw new Error('stop');
        }),
      'stop',
    );
    assert.is(outer.disposed, false);
    assert.is(device.memory().tensors, before.tensors + 1);
  });
  assert.is(device.memory().liveBytes, before.liveBytes);
});

test('a reshaped tensor keeps the memory of the one it came from', async () => {
  const device = await testDevice();
  const a = device.tensor([1, 2, 3, 4], [2, 2]);
  const b = a.alias([4]);
  const { liveBytes } = device.memory();
  a.dispose();
  assert.is(device.memory().liveBytes, liveBytes);
  assert.equal([...(await b.floats())], [1, 2, 3, 4]);
  assert.throws(() => b.alias([3]), /\[4\] has 4 elements, \[3\] has 3/);
  b.dispose();
  assert.is(device.memory().liveBytes, liveBytes - 256);
});

test('every use of a disposed tensor says so', async () => {
  const device = await testDevice();
  const t = device.full([2, 3], 1);
  t.dispose();
  const told = (e: Error) => e.message === 'tensor [2,3] was disposed; return it from its scope to keep it';
  assert.throws(() => affine(t, 2), told);
  assert.throws(() => t.alias(), told);
  assert.throws(() => t.write([1, 2, 3, 4, 5, 6]), told);
  let failure: unknown;
  await t.read().catch((e) => {
    failure = e;
  });
  assert.ok(told(failure as Error));
});

test('a gradient through a tensor that an inner scope freed is an error, not zero', async () => {
  const device = await testDevice();
  device.scope(() => {
    const x = device.full([2], 3);
    const { pullback } = vjp((u) => device.scope(() => square(affine(u, 2))), [x]);
    assert.throws(() => pullback(), /an input \[2\] of square was disposed/);
  });
});

test('a tensor beyond the largest buffer: needs X, the adapter has Y', async () => {
  const device = await testDevice();
  const before = device.memory();
  const elements = Math.floor(device.capabilities.maxBinding / 4) + 1024;
  assert.throws(
    () => device.empty([elements]),
    (e: Error) =>
      e instanceof OutOfMemoryError &&
      /needs [\d.]+ [MG]iB in one buffer, the adapter has [\d.]+ [MG]iB/.test(e.message),
  );
  assert.equal(device.memory(), before);
});

test('a full device is reported by name and size, and works again when there is room', async () => {
  // A stand-in for a device with memory for one buffer; filling a real one is unkind to the machine.
  const failures: Error[] = [];
  let room = 1;
  const device = {
    pushErrorScope() {},
    popErrorScope: async () => (room-- > 0 ? null : { message: 'out of memory' }),
    queue: { submit() {} },
  } as unknown as GPUDevice;
  const destroyed: object[] = [];
  const create = (size: number) => {
    const buffer = { size, destroy: () => destroyed.push(buffer) };
    return buffer as unknown as GPUBuffer;
  };
  const pool: Pool<GPUBuffer> = new Pool(
    device,
    2 ** 30,
    create,
    (e) => failures.push(e),
    () => pool.trim(),
  );
  const other = pool.acquire(16 << 20, 'tensor [4194304] f32');
  pool.release(other);
  const refused = pool.acquire(8 << 20, 'tensor [2097152] f32');
  for (let i = 0; i < 3; i++) await Promise.resolve();
  assert.ok(failures[0] instanceof OutOfMemoryError);
  assert.is(
    failures[0]!.message,
    'tensor [2097152] f32: needs 8.0 MiB, the device is full (0 B in use, 16.0 MiB kept for reuse); use a smaller batch or K',
  );
  assert.equal(destroyed, [other], 'what was kept is given back');
  pool.release(refused);
  assert.equal(destroyed, [other, refused], 'what was refused is not kept');
  assert.equal([pool.liveBytes, pool.freeBytes], [0, 0]);
  assert.is.not(pool.acquire(8 << 20, 'again'), refused);
});

test('operations leave their result alone, where no gradient needs more', async () => {
  const device = await testDevice();
  const image = device.full([1, 4, 4, 4], 0.5);
  const rows = device.full([1, 4, 8], 0.5);
  const matrix = device.full([8, 8], 0.5);
  const four = device.full([4], 1);
  const one = device.full([1], 1);
  const operations: Record<string, () => Tensor | Tensor[]> = {
    attention: () => attention(rows, rows, rows, { heads: 2 }),
    'attention fused': () => attention(rows, rows, rows, { heads: 2, variant: 'fused' }),
    batchNormTraining: () => Object.values(batchNormTraining(image, four, four, { eps: 1e-5 })),
    groupNorm: () => groupNorm(image, four, four, { groups: 2, eps: 1e-5 }),
    linear: () => linear(rows, matrix),
    max: () => max(rows, 1),
    maxPool: () => maxPool(image, 2),
    mae: () => mae(image, image),
    ssim: () => ssim(image, image),
    pixelUnshuffle: () => pixelUnshuffle(image, 2),
    pixelShuffle: () => pixelShuffle(image, 2),
    'a gradient': () => {
      const { output, pullback } = vjp((u) => ssim(u, image), [image]);
      device.keep(output);
      return [output, ...pullback(one)];
    },
  };
  for (const [name, f] of Object.entries(operations)) {
    const before = device.memory();
    // The gradient's graph lives as long as the scope.
    const results = [name === 'a gradient' ? device.scope(f) : f()].flat();
    assert.is(device.memory().tensors, before.tensors + results.length, name);
    for (const t of results) t.dispose();
    assert.is(device.memory().liveBytes, before.liveBytes, name);
  }
  for (const t of [image, rows, matrix, four, one]) t.dispose();
});

test('asynchronous scopes and recordings, writes while recording, rows of rows are refused', async () => {
  const device = await testDevice();
  const x = device.tensor([3], [1]);
  const before = device.memory().tensors;
  for (const run of [
    () => device.scope(async () => square(x)),
    () => device.record('later', async () => square(x)),
  ])
    assert.throws(run, /the function is asynchronous/);
  assert.throws(() => device.record('written', () => x.write([7])), /write: a program is being recorded/);
  assert.throws(() => device.tensor([[1, 2]] as never, [1]), /one row, got rows of them/);
  assert.is(device.memory().tensors, before);
  assert.equal([...(await x.floats())], [3]);
  const { kept } = device.scope(() => ({ kept: new Map([['a', new Set([square(x)])]]) }));
  const [y] = kept.get('a') as Set<Tensor>;
  assert.equal([...(await (y as Tensor).floats())], [9]);
  assert.equal([...(await device.tensor(Float64Array.of(1.5)).floats())], [1.5]);
});

test('data of the wrong length and shapes that are none are refused', async () => {
  const device = await testDevice();
  assert.throws(() => device.tensor([1, 2, 3], [2]), /\[2\] wants 2 elements, got 3/);
  assert.throws(() => device.empty([2, -1]), /\[2,-1\] is not a shape/);
  assert.throws(() => device.empty([1.5]), /\[1.5\] is not a shape/);
  const t = device.zeros([3], 'u32');
  assert.throws(() => t.write([1]), /has 3 elements, got 1/);
  let failure: unknown;
  await t.floats().catch((e) => {
    failure = e;
  });
  assert.match((failure as Error).message, 'floats: tensor is u32, not f32');
  t.dispose();
});

test('empty tensors, single numbers, u32 and i32 go there and back', async () => {
  const device = await testDevice();
  const cases: [Tensor, number[]][] = [
    [device.tensor([], [0, 4]), []],
    [device.tensor([7], []), [7]],
    [device.tensor([1, 0xffffffff], [2], 'u32'), [1, 0xffffffff]],
    [device.tensor([-1, 2 ** 31 - 1], [2], 'i32'), [-1, 2 ** 31 - 1]],
    [device.tensor([0x3c00, 1, 2], [3], 'f16'), [0x3c00, 1, 2]],
    [device.full([3], -2, 'i32'), [-2, -2, -2]],
    // No elements: nothing is computed, and what shares the submission is.
    [affine(device.zeros([0, 4]), 2, 1), []],
    [add(device.zeros([0, 4]), device.zeros([0, 4])), []],
    [matmul(device.zeros([0, 4]), device.zeros([4, 4])), []],
    [matmul(device.zeros([2, 0]), device.zeros([0, 4])), [0, 0, 0, 0, 0, 0, 0, 0]],
    [linear(device.zeros([0, 4]), device.zeros([4, 4])), []],
    [conv2d(device.zeros([0, 4, 4, 4]), device.zeros([3, 3, 4, 4]), { padding: 1 }), []],
    [
      pad(device.zeros([0, 4]), [
        [0, 0],
        [0, 4],
      ]),
      [],
    ],
    [maxPool(device.zeros([0, 4, 4, 4]), 2), []],
    [affine(device.full([4], 1), 2, 1), [3, 3, 3, 3]],
  ];
  for (const [t, want] of cases) {
    assert.equal([...(await t.read())], want);
    t.dispose();
  }
});

test.run();
