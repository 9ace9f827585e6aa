/** Programs: replay equals eager execution bit for bit, and planned memory is never shared by two that live at once. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { valueAndGrad, vjp } from '../../src/engine/autograd.ts';
import { Device } from '../../src/engine/device.ts';
import { KernelError } from '../../src/engine/errors.ts';
import { assemble, kernel } from '../../src/engine/kernel.ts';
import { type Life, lifetimes, planMemory } from '../../src/engine/program.ts';
import { advance } from '../../src/engine/random.ts';
import { Storage, type Tensor } from '../../src/engine/tensor.ts';
import { Adam } from '../../src/kernels/adam.ts';
import { affine, sigmoid, silu, sqrt, square, tanh } from '../../src/kernels/elementwise.ts';
import { mae } from '../../src/kernels/mae.ts';
import { reshape } from '../../src/kernels/shape.ts';
import { lcg, newDevice, testDevice } from '../support.ts';

const test = suite('program');

test('a training loop with Adam in place: replay equals eager bit for bit', async () => {
  const device = await testDevice();
  const random = lcg(1);
  const start = Float32Array.from({ length: 90 }, () => random());
  const target = device.tensor(
    Float32Array.from({ length: 90 }, () => random()),
    [2, 45],
  );
  const train = (p: Tensor, adam: Adam) => {
    const { value, gradients } = valueAndGrad((u) => mae(tanh(silu(affine(u, 3, 0.1))), target), [p]);
    adam.step(gradients);
    return value;
  };
  const p = device.tensor(start, [2, 45]);
  const adam = new Adam(device, p, { lr: 0.02, betas: [0.9, 0.99] });
  const losses: number[] = [];
  for (let i = 0; i < 25; i++) {
    const value = device.scope(() => train(p, adam));
    losses.push(...(await value.floats()));
    value.dispose();
  }
  const q = device.tensor(start, [2, 45]);
  const other = new Adam(device, q, { lr: 0.02, betas: [0.9, 0.99] });
  const program = device.record('train', () => train(q, other));
  const replayed: number[] = [];
  for (let i = 0; i < 25; i++) replayed.push(...(await program.run().floats()));
  assert.equal(replayed, losses);
  assert.equal(await q.floats(), await p.floats());
  assert.equal(await other.moments[0]!.v.floats(), await adam.moments[0]!.v.floats());
  assert.ok(losses.at(-1)! < 0.8 * losses[0]!, 'and it learns');
  // Many runs without a read between, and runs between eager work, keep their order.
  for (let i = 0; i < 10; i++) {
    program.run();
    device.scope(() => train(p, adam));
  }
  assert.equal(await q.floats(), await p.floats());
  program.dispose();
  for (const t of [p, q, target]) t.dispose();
  adam.dispose();
  other.dispose();
});

test('a chain shares memory, and its outputs are its own', async () => {
  const device = await testDevice();
  const x = device.full([5000], 0.5);
  const program = device.record('chain', () => {
    let y = x;
    const early = affine(x, 10);
    for (let i = 0; i < 10; i++) y = sigmoid(y);
    return [early, y];
  });
  // Two outputs and two that take turns.
  const one = 20_480;
  assert.is(program.cost.dispatches, 11);
  assert.is(program.cost.plannedBytes, 4 * one);
  assert.is(program.cost.unplannedBytes, 11 * one);
  const [early, last] = program.run();
  let want = 0.5;
  for (let i = 0; i < 10; i++) want = 1 / (1 + Math.exp(-want));
  assert.is((await early!.floats())[4999], 5);
  assert.ok(Math.abs((await last!.floats())[0]! - want) < 1e-6);
  // A new input: write to it between runs.
  x.write(new Float32Array(5000).fill(2));
  program.run();
  assert.is((await early!.floats())[0], 20);
  program.dispose();
  x.dispose();
});

test('inputs and constants of a program may be disposed before it runs', async () => {
  const device = await testDevice();
  const before = device.memory();
  const x = device.full([8], 2);
  const program = device.record('owner', () =>
    mae(affine(device.tensor([1, 2, 3, 4], [1, 4]), 1), device.full([1, 4], 0)),
  );
  const second = device.record('owner 2', () => affine(x, 3));
  x.dispose();
  const filler = Array.from({ length: 8 }, (_, i) => device.full([8], i));
  assert.equal([...(await program.run().floats())], [2.5]);
  assert.is((await second.run().floats())[7], 6);
  for (const t of filler) t.dispose();
  for (const p of [program, second]) {
    p.dispose();
    p.outputs.dispose();
  }
  assert.is(device.memory().liveBytes, before.liveBytes);
  assert.is(device.memory().tensors, before.tensors);
});

test('an input may be an output', async () => {
  const device = await testDevice();
  const x = device.full([4], 1);
  const program = device.record('identity', () => ({ x, y: square(x) }));
  x.write([1, 2, 3, 4]);
  const { x: same, y } = program.run();
  assert.equal([...(await same.floats())], [1, 2, 3, 4]);
  assert.equal([...(await y.floats())], [1, 4, 9, 16]);
  program.dispose();
  x.dispose();
});

test('what cannot be recorded says why', async () => {
  const device = await testDevice();
  const x = device.full([4], 1);
  let inside: Tensor | undefined;
  let reading: Promise<unknown> | undefined;
  const program = device.record('errors', () => {
    assert.throws(
      () => device.record('inner', () => {}),
      /record inner: a program is already being recorded/,
    );
    reading = x.floats();
    reading.catch(() => {});
    inside = device.keep(affine(x, 2));
    return square(inside);
  });
  let failure: unknown;
  await reading!.catch((e) => {
    failure = e;
  });
  assert.match((failure as Error).message, 'a program is being recorded');
  assert.is(device.recording, false);
  program.dispose();
  assert.throws(() => device.bufferOf(inside!), /made while a program was recorded has no memory outside it/);
  inside!.dispose();
  assert.throws(
    () => device.record('nothing', () => device.empty([3])),
    /an output of the program is never written/,
  );
  assert.throws(
    () => device.record('unwritten', () => square(device.empty([3]))),
    /square.*: x is read before anything wrote it/,
  );
  // A recording that fails leaves the device as it was.
  assert.throws(
    () =>
      device.record('fails', () => {
        affine(x, 2);
        throw new Error('stop');
      }),
    'stop',
  );
  assert.is(device.recording, false);
  const y = affine(x, 3);
  assert.equal([...(await y.floats())], [3, 3, 3, 3]);
  y.dispose();
  x.dispose();
});

test('a recording that fails gives back all it held', async () => {
  const device = await testDevice();
  const x = device.full([4], 1);
  const { liveBytes } = device.memory();
  const k = kernel(
    'in place test',
    `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(1) fn main() { x[0] = 1.0; }`,
  );
  const failing: [() => unknown, RegExp | string][] = [
    [
      () => {
        affine(x, 2);
        device.tensor([1, 2]);
        throw new Error('stop');
      },
      'stop',
    ],
    [() => square(affine(device.empty([2]), 1)), /read before anything wrote it/],
    [() => device.run(k, { x }, { n: 1 }, [1, 1, 1]), /params has no field n/],
    [
      // The second buffer is larger than the device allows.
      () => [affine(x, 2), device.full([Math.floor(device.capabilities.maxBinding / 4) + 64], 1)],
      /in one buffer, the adapter has/,
    ],
  ];
  for (const [f, message] of failing) {
    assert.throws(() => device.record('fails', f), message);
    assert.is(device.memory().liveBytes, liveBytes);
  }
  x.dispose();
  assert.is(device.memory().liveBytes, liveBytes - 256);
});

test('a disposed program cannot be read and runs nothing', async () => {
  const device = await testDevice();
  const x = device.full([4], 1);
  const program = device.record('gone', () => affine(x, 2));
  program.run();
  program.dispose();
  program.run();
  assert.throws(() => device.bufferOf(program.outputs), /was disposed/);
  program.outputs.dispose();
  x.dispose();
  const { liveBytes } = device.memory();
  const constant = device.record('only a constant', () => device.tensor(new Float32Array(1000)));
  constant.outputs.dispose();
  constant.dispose();
  assert.is(device.memory().liveBytes, liveBytes);
});

test('a run writes: a gradient of what it overwrote is an error, and so is a run inside a recording', async () => {
  const device = await testDevice();
  const x = device.tensor([1, 2, 3]);
  const program = device.record('p', () => affine(x, 2));
  const { pullback } = vjp((u) => square(u), [program.run()]);
  program.run();
  assert.throws(() => pullback(), /\[3\] of square was written after it was computed with/);
  assert.throws(() => device.record('q', () => affine(program.run(), 3)), /a program is being recorded/);
  program.dispose();
  x.dispose();
});

test('what a refused kernel of a program may have taken is refused, also where the run ended its submission itself', async () => {
  const device = await newDevice();
  const bad = assemble(
    'bad in program',
    '@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() { y[0] = missing; }',
  );
  const good = kernel(
    'good in program',
    '@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn main() { y[0] = 1.0; }',
  );
  for (const flops of [0, 2e11]) {
    const program = device.record('p', () => {
      const y = device.empty([1]);
      device.run(bad, { y }, {}, [1, 1, 1]);
      device.run(good, { y }, {}, [1, 1, 1], { flops });
      return y;
    });
    const y = program.run();
    const refused = (f: () => Promise<unknown>) =>
      f().then(
        () => assert.unreachable(`${flops}`),
        (error) => assert.instance(error, KernelError),
      );
    await refused(() => device.sync());
    await device.sync(); // told once
    await refused(() => y.floats());
    program.dispose();
  }
  device.close();
});

test('outputs over memory from outside go with the program, tensors from outside stay', async () => {
  const device = await testDevice();
  const { liveBytes, tensors } = device.memory();
  const x = device.zeros([4]);
  const program = device.record('p', () => [reshape(x, [2, 2]), x] as const);
  const [view] = program.run();
  program.dispose();
  assert.throws(() => view.live(), /disposed/);
  assert.equal([...(await x.floats())], [0, 0, 0, 0]);
  x.dispose();
  assert.equal([device.memory().liveBytes, device.memory().tensors], [liveBytes, tensors]);
});

test('several runs in one submission follow one another', async () => {
  const device = await testDevice();
  const step = device.zeros([1], 'u32');
  const program = device.record('count', () => advance(step));
  program.run();
  program.run(3);
  assert.equal([...(await step.read())], [4]);
  program.dispose();
  step.dispose();
});

test('much work is submitted in parts, in order', async () => {
  const device = await testDevice();
  const x = device.tensor([1], [1]);
  const double = kernel(
    'double test',
    `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(1) fn main() { x[0] = 2.0 * x[0]; }`,
  );
  const record = (flops: number) =>
    device.record('double', () => {
      for (let i = 0; i < 6; i++) device.run(double, { x }, {}, [1, 1, 1], { flops });
    });
  const { queue } = device.handle;
  const submit = queue.submit;
  let submissions = 0;
  queue.submit = (commands) => {
    submissions++;
    submit.call(queue, commands);
  };
  const counts: number[] = [];
  try {
    for (const flops of [1e9, 4e10]) {
      const program = record(flops);
      await program.prepare();
      submissions = 0;
      program.run();
      counts.push(submissions);
      program.dispose();
    }
  } finally {
    queue.submit = submit;
  }
  assert.equal(counts, [1, 2], 'one, and one after every 1e11 operations');
  assert.equal([...(await x.floats())], [2 ** 12]);
});

test('prepare compiles and reports progress', async () => {
  const device = await Device.open(); // of its own: nothing is compiled yet
  const x = device.full([4], 1);
  const program = device.record('prepared', () => affine(square(x), 123.5));
  const seen: [number, number][] = [];
  await program.prepare((done, total) => seen.push([done, total]));
  assert.equal(seen, [
    [1, 2],
    [2, 2],
  ]);
  const count = device.pipelines.count;
  assert.equal([...(await program.run().floats())], new Array(4).fill(123.5));
  assert.is(device.pipelines.count, count);
  program.dispose();
  device.close();
});

// ---- the planner alone

const copy = kernel(
  'copy test',
  `@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { y[0] = x[0]; }`,
);

test('lifetimes: from the first write to the last use; outputs for ever', () => {
  const [given, a, b, c] = Array.from({ length: 4 }, () => new Storage(1024, null)) as [
    Storage,
    Storage,
    Storage,
    Storage,
  ];
  const steps = [
    [given, a],
    [a, b],
    [a, c],
    [b, given],
  ].map((storages) => ({ kernel: copy, storages }));
  const lives = lifetimes(steps, new Set([a, b, c]), new Set([c]));
  const life = (s: Storage) => {
    const { first, last } = lives.find((l) => l.storage === s)!;
    return [first, last];
  };
  assert.equal(life(a), [0, 2]);
  assert.equal(life(b), [1, 3]);
  assert.equal(
    life(c),
    [0, Number.POSITIVE_INFINITY],
    'a second run must not overwrite it before it is read',
  );
  assert.not(
    lives.some((l) => l.storage === given),
    'memory of others is not planned',
  );
  assert.throws(
    () => lifetimes([{ kernel: copy, storages: [a, b] }], new Set([a, b]), new Set()),
    /x is read before anything wrote it/,
  );
});

test('two that live at once never share: 200 random plans', () => {
  const random = lcg(3);
  const integer = (n: number) => Math.floor(((random() + 1) / 2) * n);
  for (let round = 0; round < 200; round++) {
    const lives: Life[] = Array.from({ length: 1 + integer(40) }, () => {
      const first = integer(50);
      const last = integer(8) === 0 ? Number.POSITIVE_INFINITY : first + integer(12);
      return {
        storage: new Storage(4 * (1 + integer(5000)), null, integer(4) === 0),
        first: last === Number.POSITIVE_INFINITY ? 0 : first,
        last,
      };
    });
    const { slots, slotOf } = planMemory(lives);
    assert.is(slotOf.size, lives.length);
    for (const a of lives) {
      const slot = slots[slotOf.get(a.storage)!]!;
      assert.ok(slot.bytes >= a.storage.bytes, 'fits');
      assert.is(slot.texels, a.storage.texels, 'of its kind');
      for (const b of lives) {
        if (a === b || slotOf.get(a.storage) !== slotOf.get(b.storage)) continue;
        assert.ok(
          a.last < b.first || b.last < a.first,
          `[${a.first},${a.last}] and [${b.first},${b.last}] share a buffer`,
        );
      }
    }
    // Never worse than a buffer each, never better than what lives at the busiest moment.
    const busiest = Math.max(
      ...Array.from({ length: 64 }, (_, t) =>
        lives.filter((l) => l.first <= t && t <= l.last).reduce((s, l) => s + l.storage.bytes, 0),
      ),
    );
    assert.ok(slots.length <= lives.length);
    assert.ok(slots.reduce((s, { bytes }) => s + bytes, 0) >= busiest);
  }
});

test('a life that ends in the step where another begins does not share with it', () => {
  const a = { storage: new Storage(256, null), first: 0, last: 3 };
  const b = { storage: new Storage(256, null), first: 3, last: 4 };
  const c = { storage: new Storage(256, null), first: 4, last: 5 };
  const { slots, slotOf } = planMemory([a, b, c]);
  assert.is.not(slotOf.get(a.storage), slotOf.get(b.storage));
  assert.is(slotOf.get(a.storage), slotOf.get(c.storage));
  assert.equal(
    slots.map(({ bytes }) => bytes),
    [256, 256],
  );
});

test('the first dispatch whose result is not finite is named, forward and backward', async () => {
  const device = await testDevice();
  const x = device.tensor([1, 4, 9, 16], [4]);
  const program = device.record('roots', () =>
    vjp((u) => silu(sqrt(square(affine(u, 1, -1)))), [x]).pullback(),
  );
  assert.is((await program.firstNotFinite())?.operation, 'the gradient of sqrt [4]', '1/√0 at x = 1');
  x.write([2, 3, 4, 5]);
  assert.is(await program.firstNotFinite(), null, 'what an earlier run left is not taken for this one’s');
  x.write([2, 3, 1e30, 5]);
  const found = await program.firstNotFinite();
  assert.is(found?.operation, 'square [4]');
  assert.ok(
    found!.index < found!.count && program.signature.split('; ')[found!.index]!.startsWith(found!.kernel),
  );
  program.dispose();
  x.dispose();
});

test.run();
