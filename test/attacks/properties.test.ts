/** What must hold of any attack: bounds, budgets, batches, options. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Apgd } from '../../src/attacks/apgd.ts';
import { type Attack, lengthOf, type Norm } from '../../src/attacks/attack.ts';
import { AutoAttack } from '../../src/attacks/autoattack.ts';
import { Fab } from '../../src/attacks/fab.ts';
import { Fgsm } from '../../src/attacks/fgsm.ts';
import { LowFrequency } from '../../src/attacks/low-frequency.ts';
import { Noise } from '../../src/attacks/noise.ts';
import { Pgd } from '../../src/attacks/pgd.ts';
import { portfolio } from '../../src/attacks/portfolio.ts';
import type { Eot } from '../../src/attacks/query.ts';
import { Square } from '../../src/attacks/square.ts';
import type { Draw, GraphTarget, ProcessTarget, Target } from '../../src/attacks/target.ts';
import { classify } from '../../src/cmap/vote.ts';
import { differentiable, vjp } from '../../src/engine/autograd.ts';
import type { Device } from '../../src/engine/device.ts';
import { InputError } from '../../src/engine/errors.ts';
import { randomNormal } from '../../src/engine/random.ts';
import type { Tensor } from '../../src/engine/tensor.ts';
import { add, sub } from '../../src/kernels/broadcast.ts';
import { crossEntropy } from '../../src/kernels/cross-entropy.ts';
import { abs, affine, sign, square, tanh } from '../../src/kernels/elementwise.ts';
import { linear } from '../../src/kernels/matmul.ts';
import { sum } from '../../src/kernels/reduce.ts';
import { concat, reshape, slice } from '../../src/kernels/shape.ts';
import { softmax } from '../../src/kernels/softmax.ts';
import { lcg, testDevice } from '../support.ts';
import { fashion, withinBall } from './fashion.ts';

const test = suite('attack properties');

const rejects = async (run: () => Promise<unknown>, pattern: RegExp) => {
  const error = await run().then(
    () => null,
    (e: Error) => e,
  );
  assert.ok(error && pattern.test(error.message), String(error));
};

/** Six images of 8×8×3 and a linear classifier of 6 classes, on which what is best is known. */
async function toy() {
  const device = await testDevice();
  const random = lcg(3);
  const [n, size, classes] = [6, 192, 6];
  const images = Float32Array.from({ length: n * size }, () => 0.1 + 0.4 * (1 + random()));
  const weights = Float32Array.from({ length: size * classes }, () => random());
  const x = device.tensor(images, [n, 8, 8, 3]);
  const w = device.tensor(weights, [size, classes]);
  const net = { classes, logits: (u: Tensor) => linear(reshape(u, [u.shape[0] as number, size]), w) };
  const logits = (image: ArrayLike<number>, i = 0) =>
    Array.from({ length: classes }, (_, c) => {
      let z = 0;
      for (let k = 0; k < size; k++)
        z += (image[i * size + k] as number) * (weights[k * classes + c] as number);
      return z;
    });
  const labelOf = (image: ArrayLike<number>, i: number) => {
    const z = logits(image, i);
    return z.indexOf(Math.max(...z));
  };
  const labels = Array.from({ length: n }, (_, i) => labelOf(images, i));
  const dispose = () => {
    x.dispose();
    w.dispose();
  };
  return { device, x, images, weights, net, labels, labelOf, logits, size, n, classes, dispose };
}

const radius = { Linf: 0.02, L2: 0.2, L1: 2 };
const every = (norm: Norm, eps: number = radius[norm]): Attack[] => [
  new Fgsm({ norm, eps }),
  new Pgd({ norm, eps, steps: 5, stepSize: eps / 3, randomStart: true, restarts: 2, seed: 5 }),
  new Pgd({
    norm,
    eps,
    steps: 5,
    stepSize: eps / 3,
    randomStart: true,
    keep: 'best',
    loss: 'margin',
    seed: 5,
  }),
  new Apgd({ norm, eps, loss: 'ce', steps: 12, seed: 5 }),
  new Apgd({ norm, eps, loss: 'dlr', steps: 12, restarts: 2, seed: 5 }),
  new Apgd({ norm, eps, loss: 'targeted', steps: 12, targetClasses: 3, seed: 5 }),
  new Fab({ norm, eps, targeted: false, steps: 6, restarts: 2, seed: 5 }),
  new Fab({ norm, eps, targeted: true, steps: 6, targetClasses: 3, seed: 5 }),
  new Square({ norm, eps, queries: 60, restarts: 2, seed: 5 }),
  new Noise({ norm, eps: 3 * eps, points: 30, seed: 5 }),
  ...(norm === 'L1' ? [] : [new LowFrequency({ norm, eps, steps: 5 })]),
  new AutoAttack({
    norm,
    eps,
    version: 'custom',
    attacks: [
      new Apgd({ norm, eps, loss: 'ce', steps: 6 }),
      new Fab({ norm, eps, targeted: true, steps: 3, targetClasses: 2 }),
      new Square({ norm, eps, queries: 20 }),
    ],
  }),
];

for (const norm of ['Linf', 'L2', 'L1'] as const) {
  for (const attack of every(norm)) {
    test(`${attack.name} ${norm}: within eps and [0, 1], success is true, the batch does not matter`, async () => {
      const t = await toy();
      const result = await attack.run(t.net, t.x, t.labels, { batch: 4 });
      const adversarial = await result.adversarial.floats();
      withinBall(adversarial, t.images, t.size, norm, attack.eps);
      assert.equal(
        result.success,
        t.labels.map((y, i) => t.labelOf(adversarial, i) !== y),
        'success',
      );
      assert.ok(result.passes.forward > 0 && result.trace.length === t.n);

      // The same images backwards: other neighbours, other slots, the same bits.
      const order = [5, 4, 3, 2, 1, 0];
      const rows = Float32Array.from(
        order.flatMap((i) => [...t.images.subarray(i * t.size, (i + 1) * t.size)]),
      );
      const x = t.device.tensor(rows, t.x.shape);
      const options = { batch: 4, imageIds: order };
      const other = await attack.run(
        t.net,
        x,
        order.map((i) => t.labels[i] as number),
        options,
      );
      const turned = await other.adversarial.floats();
      order.forEach((i, k) => {
        assert.equal(
          turned.subarray(k * t.size, (k + 1) * t.size),
          adversarial.subarray(i * t.size, (i + 1) * t.size),
          `image ${i}`,
        );
      });
      if (attack instanceof AutoAttack) {
        const { stages } = result as Awaited<ReturnType<AutoAttack['run']>>;
        assert.ok(stages.length > 0);
        stages.forEach((stage, s) => {
          const before = s === 0 ? t.n : (stages[s - 1] as (typeof stages)[0]).robustAccuracy * t.n;
          assert.is(stage.images.length, Math.round(before));
          assert.is(Math.round(stage.robustAccuracy * t.n), stage.images.length - stage.broken.length);
          stage.result.adversarial.dispose();
        });
      }
      for (const u of [result.adversarial, other.adversarial, x]) u.dispose();
      t.dispose();
    });
  }
}

test('pgd reaches the exact optimum of a linear margin', async () => {
  const t = await toy();
  // Two classes only matter to the difference loss: its maximum over the ball is known coordinate by coordinate.
  const eps = 0.02;
  const targets = t.labels.map((y) => (y + 1) % t.classes);
  const attack = new Pgd({
    eps,
    steps: 3,
    stepSize: eps,
    randomStart: true,
    seed: 1,
    loss: 'difference',
    targeted: true,
  });
  const result = await attack.run(t.net, t.x, t.labels, { targets });
  t.labels.forEach((y, i) => {
    const z = t.logits(t.images, i);
    let best = (z[targets[i] as number] as number) - (z[y] as number);
    for (let k = 0; k < t.size; k++) {
      const w =
        (t.weights[k * t.classes + (targets[i] as number)] as number) -
        (t.weights[k * t.classes + y] as number);
      const v = t.images[i * t.size + k] as number;
      best += w * (w > 0 ? Math.min(eps, 1 - v) : -Math.min(eps, v));
    }
    assert.ok(Math.abs((result.loss[i] as number) - best) < 1e-4, `${result.loss[i]} is not ${best}`);
  });
  result.adversarial.dispose();
  t.dispose();
});

for (const norm of ['Linf', 'L2'] as const) {
  test(`low-frequency ${norm} reaches the exact optimum of a linear margin over blocks`, async () => {
    const t = await toy();
    // Two classes: the margin z_1 − z_0 is linear, and the optimum over blocks of 4 × 4 pixels and channels is known.
    const two = { classes: 2, logits: (u: Tensor) => slice(t.net.logits(u), 1, 0, 2) };
    const eps = radius[norm];
    const labels = t.labels.map(() => 0);
    const attack = new LowFrequency({ norm, eps, loss: 'margin', steps: 8, stepSize: eps });
    const fgsm = new Fgsm({ norm, eps, loss: 'margin' });
    const [result, single] = [await attack.run(two, t.x, labels), await fgsm.run(two, t.x, labels)];
    const sums = new Map<number, number>();
    for (let k = 0; k < t.size; k++) {
      const [c, column, line] = [k % 3, Math.floor(k / 3) % 8, Math.floor(k / 24)];
      const w = (t.weights[k * t.classes + 1] as number) - (t.weights[k * t.classes] as number);
      const at = (Math.floor(line / 4) * 2 + Math.floor(column / 4)) * 3 + c;
      sums.set(at, (sums.get(at) ?? 0) + w);
    }
    // Linf: Σ |s_b| eps; L2: blocks of 16 pixels, ‖δ‖ = 4 ‖w‖, so eps ‖s‖ / 4.
    const gain =
      norm === 'Linf'
        ? eps * [...sums.values()].reduce((a, s) => a + Math.abs(s), 0)
        : (eps * Math.hypot(...sums.values())) / 4;
    labels.forEach((_, i) => {
      const z = t.logits(t.images, i);
      const best = (z[1] as number) - (z[0] as number) + gain;
      assert.ok(Math.abs((result.loss[i] as number) - best) < 1e-3, `${result.loss[i]} is not ${best}`);
      assert.ok((single.loss[i] as number) > best, 'all pixels move a linear margin further than blocks');
    });
    for (const r of [result, single]) r.adversarial.dispose();
    t.dispose();
  });
}

test('noise breaks what a masked gradient leaves, and more points are not worse', async () => {
  const t = await toy();
  // Logits in steps: their derivative is zero, so a gradient attack stays where it is.
  const masked: GraphTarget = {
    ...t.net,
    logits: (u) => differentiable('step', [u], t.net.logits(u), () => [affine(u, 0)]),
  };
  const run = async (attack: Attack) => {
    const result = await attack.run(masked, t.x, t.labels);
    result.adversarial.dispose();
    return { broken: result.success.filter(Boolean).length, loss: result.loss };
  };
  const ball = { norm: 'Linf', eps: 0.35 } as const;
  const pgd = await run(
    new Pgd({ ...ball, steps: 5, stepSize: 0.1, randomStart: false, keep: 'best', seed: 0 }),
  );
  const [few, many] = [
    await run(new Noise({ ...ball, points: 2 })),
    await run(new Noise({ ...ball, points: 400 })),
  ];
  assert.is(pgd.broken, 0);
  assert.ok(many.broken > 0 && many.broken >= few.broken, `${few.broken}, then ${many.broken}`);
  many.loss.forEach((loss, i) => {
    assert.ok(loss >= (few.loss[i] as number) || loss >= 0, `image ${i}`);
  });
  t.dispose();
});

test('the portfolio breaks what any of its members does, each on what is left', async () => {
  const t = await toy();
  const ball = { norm: 'Linf', eps: 0.02, seed: 3 } as const;
  const whole = portfolio({ ...ball, steps: 6, queries: 20, points: 10, targetClasses: 3 });
  const result = await whole.run(t.net, t.x, t.labels, { batch: 6 });
  assert.equal(
    whole.attacks.map((a) => a.name),
    ['noise', 'fgsm', 'pgd', 'pgd-margin', 'low-frequency', 'apgd-t', 'fab-t', 'square'],
  );
  for (const member of whole.attacks) {
    const own = await member.run(t.net, t.x, t.labels, { batch: 6 });
    own.success.forEach((hit, i) => {
      assert.ok(!hit || result.success[i], `${member.name} breaks image ${i}, the portfolio does not`);
    });
    own.adversarial.dispose();
  }
  result.stages.slice(1).forEach((stage, s) => {
    const before = result.stages[s] as (typeof result.stages)[0];
    assert.is(stage.images.length, before.images.length - before.broken.length);
  });
  for (const { result: own } of result.stages) own.adversarial.dispose();
  result.adversarial.dispose();
  t.dispose();
});

for (const norm of ['Linf', 'L2', 'L1'] as const) {
  test(`fab ${norm} finds the nearest boundary of a linear classifier`, async () => {
    const t = await toy();
    const attack = new Fab({ norm, eps: 1, targeted: false, steps: 40 });
    const result = await attack.run(t.net, t.x, t.labels);
    t.labels.forEach((y, i) => {
      const z = t.logits(t.images, i);
      let nearest = Number.POSITIVE_INFINITY;
      for (let c = 0; c < t.classes; c++) {
        if (c === y) continue;
        const gap = (z[y] as number) - (z[c] as number);
        const w = Array.from(
          { length: t.size },
          (_, k) => (t.weights[k * t.classes + c] as number) - (t.weights[k * t.classes + y] as number),
        );
        const total = (f: (v: number) => number) => w.reduce((sum, v) => sum + f(v), 0);
        const distances = {
          Linf: () => gap / total(Math.abs),
          L2: () => gap / Math.sqrt(total((v) => v * v)),
          L1: () => distance1(gap, w, t.images.subarray(i * t.size, (i + 1) * t.size)),
        };
        nearest = Math.min(nearest, distances[norm]());
      }
      // Pixels lie 0.1 from the faces of the box, further than the boundaries in L∞ and L2: it does not matter there.
      const ratio = -(result.loss[i] as number) / nearest;
      assert.ok(ratio > 0.9999 && ratio < 1.06, `image ${i}: ${ratio} times the nearest boundary`);
    });
    result.adversarial.dispose();
    t.dispose();
  });
}

/** ‖·‖₁ of the shortest way to w·δ = gap within [0, 1]: pixels of largest |w| first, each as far as it can go. */
function distance1(gap: number, w: readonly number[], image: ArrayLike<number>): number {
  let [left, length] = [gap, 0];
  for (const k of [...w.keys()].sort((a, b) => Math.abs(w[b] as number) - Math.abs(w[a] as number))) {
    const v = image[k] as number;
    const way = Math.min((w[k] as number) > 0 ? 1 - v : v, left / Math.abs(w[k] as number));
    length += way;
    left -= way * Math.abs(w[k] as number);
    if (left <= 0) break;
  }
  return length;
}

/** A target whose gradient depends on its noise. */
function noisy(t: Awaited<ReturnType<typeof toy>>, sigma = 0.5): GraphTarget {
  return {
    classes: t.classes,
    randomised: true,
    logits: (u, draw) => {
      const noise = affine(randomNormal(t.device, u.shape, { ...draw, purpose: 77 }), sigma);
      return t.net.logits(tanh(square(add(u, noise))));
    },
  };
}

test('each restart and each target class meets draws of its own', async () => {
  const t = await toy();
  const seen: number[] = [];
  const target: ProcessTarget = {
    classes: t.classes,
    randomised: true,
    async process(x, { step }) {
      seen.push((await step.read())[0] as number);
      const logits = t.device.keep(t.device.scope(() => t.net.logits(x)));
      return {
        logits,
        pullback: async () => t.device.keep(t.device.zeros(x.shape)),
        dispose: () => logits.dispose(),
      };
    },
  };
  const ball = { norm: 'Linf' as const, eps: 0.02, seed: 0 };
  const pgd = { ...ball, steps: 2, stepSize: 0.01, randomStart: true, restarts: 3, eot: { draws: 2 } };
  for (const [attack, count] of [
    [new Pgd(pgd), 3 * 3 * 2],
    [new Apgd({ ...ball, loss: 'targeted', targetClasses: 3, steps: 4 }), 3 * 5],
  ] as const) {
    seen.length = 0;
    const { adversarial } = await attack.run(target, t.x, t.labels, { batch: t.n, misread: 'attacked' });
    adversarial.dispose();
    // APGD-T asks for the other classes of the clean images first, by the draws of its first run.
    const own = seen.slice(-count);
    assert.is(new Set(own).size, count, `${attack.name}: ${seen}`);
  }
  t.dispose();
});

test('in L2 a step along the signs is long by the number of pixels, and stays inside the ball', async () => {
  const t = await toy();
  const run = async (eps: number, steps: number) => {
    const step = { norm: 'L2' as const, stepSize: 0.01, randomStart: false, seed: 0 };
    const attack = new Pgd({ ...step, eps, steps, direction: 'sign' });
    const { adversarial } = await attack.run(t.net, t.x, t.labels, { batch: t.n });
    const values = await adversarial.floats();
    adversarial.dispose();
    withinBall(values, t.images, t.size, 'L2', eps);
    return values;
  };
  for (const [i, v] of (await run(5, 1)).entries()) {
    const d = Math.abs(v - (t.images[i] as number));
    assert.ok(Math.abs(d - 0.01) < 1e-6, `pixel ${i} moved by ${d}`);
  }
  const far = await run(0.1, 5);
  for (let i = 0; i < t.n; i++) {
    const [from, to] = [i * t.size, (i + 1) * t.size];
    assert.ok(lengthOf('L2', far.subarray(from, to), t.images.subarray(from, to)) > 0.0999);
  }
  t.dispose();
});

test('eot: fixed draws repeat, fresh ones do not, a worst draw is no better than the mean', async () => {
  const t = await toy();
  const target = noisy(t);
  const run = async (eot: object, seed = 1) => {
    const attack = new Pgd({
      eps: 0.05,
      steps: 4,
      stepSize: 0.02,
      randomStart: false,
      seed,
      eot: { draws: 4, ...eot },
    });
    const result = await attack.run(target, t.x, t.labels);
    const values = await result.adversarial.floats();
    result.adversarial.dispose();
    return { values, trace: result.trace, forward: result.passes.forward };
  };
  const fresh = await run({});
  assert.equal((await run({})).values, fresh.values, 'repeatable');
  assert.not.equal((await run({}, 2)).values, fresh.values, 'another seed');
  const fixed = await run({ randomness: 'fixed' });
  assert.not.equal(fixed.values, fresh.values);
  assert.equal(fixed.trace[0]?.loss[0], fresh.trace[0]?.loss[0], 'the first draws are the same');
  assert.is(fresh.forward, 6 * 5 * 4);
  const all = await run({ reduction: { worst: 4 } });
  const differing = all.values.filter((v, i) => Math.abs(v - (fresh.values[i] as number)) > 1e-5).length;
  assert.ok(differing < 0.01 * all.values.length, 'the worst 4 of 4 are all');
  assert.not.equal((await run({ reduction: { worst: 1 } })).values, fresh.values);
  t.dispose();
});

test('the mean over draws is the mean of the draws', async () => {
  const t = await toy();
  const target = noisy(t);
  const first = async (draws: number, judge: 'all' | 'last') => {
    const attack = new Pgd({
      eps: 0.05,
      steps: 1,
      stepSize: 0.02,
      randomStart: false,
      seed: 1,
      eot: { draws, judge },
    });
    const result = await attack.run(target, t.x, t.labels);
    result.adversarial.dispose();
    return result.trace.map((trace) => trace.loss[0] as number);
  };
  // Draw d of a call is step d: the last of d + 1 draws.
  const each = [await first(1, 'last'), await first(2, 'last'), await first(3, 'last')];
  const mean = await first(3, 'all');
  mean.forEach((v, i) => {
    const want = each.reduce((sum, losses) => sum + (losses[i] as number) / 3, 0);
    assert.ok(Math.abs(v - want) < 1e-5 * (1 + Math.abs(want)), `${v} is not ${want}`);
  });
  t.dispose();
});

/** A graph target as a process: what a defence with Programs of its own is to an attack. */
function asProcess(device: Device, target: GraphTarget): ProcessTarget {
  return {
    classes: target.classes,
    process: async (x, draw) => {
      const { output, pullback } = vjp((u) => target.logits(u, draw), [x]);
      return {
        logits: output,
        pullback: async (cotangent) => pullback(cotangent)[0] as Tensor,
        dispose: () => device.scope(() => output.dispose()),
      };
    },
  };
}

test('a process is attacked like the graph it stands for', async () => {
  const t = await toy();
  const options = { steps: 4, stepSize: 0.01, randomStart: true, seed: 2, eps: 0.02 } as const;
  const run = async (target: Target, attack: Attack) => {
    const result = await attack.run(target, t.x, t.labels);
    const values = await result.adversarial.floats();
    result.adversarial.dispose();
    return values;
  };
  const process = asProcess(t.device, t.net);
  for (const attack of [new Pgd(options), new Square({ norm: 'Linf', eps: 0.02, queries: 12 })]) {
    assert.equal(await run(process, attack), await run(t.net, attack), attack.name);
  }
  const randomised = { draws: 3 };
  const eot = new Pgd({ ...options, eot: randomised });
  assert.equal(await run(asProcess(t.device, noisy(t)), eot), await run(noisy(t), eot), 'eot');
  t.dispose();
});

test('logits that are NaN are no success: refused at the clean image, no hit elsewhere', async () => {
  const t = await toy();
  const broken = { ...t.net, logits: (u: Tensor) => affine(t.net.logits(u), Number.NaN) };
  const ball = { norm: 'Linf', eps: 0.02 } as const;
  const attacks: Attack[] = [
    new Pgd({ ...ball, steps: 2, stepSize: 0.01, randomStart: false, seed: 0 }),
    new Fgsm(ball),
    new Apgd({ ...ball, loss: 'ce', steps: 3 }),
    new Square({ ...ball, queries: 5 }),
    new Noise({ ...ball, points: 5 }),
    new AutoAttack(ball),
  ];
  for (const attack of attacks)
    await rejects(
      () => attack.run(broken, t.x, t.labels),
      /the target gives NaN for image 0 without an attack/,
    );
  await rejects(() => classify(broken, t.x), /classify: the logits of image 0 hold NaN/);
  // NaN wherever a pixel left its place.
  const beside = {
    ...t.net,
    logits: (u: Tensor) => {
      const far = affine(sign(sum(abs(sub(u, t.x)), [1, 2, 3])), 3e38);
      return add(t.net.logits(u), reshape(sub(square(far), square(far)), [t.n, 1]));
    },
  };
  const { success, adversarial } = await new Square({ ...ball, queries: 5 }).run(beside, t.x, t.labels);
  assert.equal(success, new Array(t.n).fill(false));
  adversarial.dispose();
  t.dispose();
});

test('autoattack warns of randomised targets and of probabilities', async () => {
  const t = await toy();
  const notesOf = async (target: Target, eot: Eot = { draws: 1 }) => {
    const attacks = [new Apgd({ norm: 'Linf', eps: 0.01, loss: 'ce', steps: 2, eot })];
    const custom = new AutoAttack({ norm: 'Linf', eps: 0.01, version: 'custom', attacks, eot });
    const result = await custom.run(target, t.x, t.labels);
    for (const { result: own } of result.stages) own.adversarial.dispose();
    result.adversarial.dispose();
    return result.notes.join('\n');
  };
  assert.is(await notesOf(t.net), '');
  assert.match(await notesOf(noisy(t)), /randomised; version custom is for deterministic ones/);
  assert.is(await notesOf(noisy(t), { draws: 2 }), '', 'chosen for a target that draws');
  assert.match(
    await notesOf({ ...t.net, logits: (u) => softmax(t.net.logits(u)) }),
    /outputs are probabilities/,
  );
  // A saturated head: steps of 1e6 in the logits leave a cross-entropy without slope.
  const saturated = { ...t.net, logits: (u: Tensor) => affine(t.net.logits(u), 1e6) };
  assert.match(await notesOf(saturated), /apgd-ce: the gradient was zero at a start of 6 of 6 images/);
  t.dispose();
});

test('on the shipped classifier every attack beats FGSM, larger eps and more steps are not worse', async () => {
  const f = await fashion(4);
  const { device } = f;
  const before = device.memory().tensors;
  const broken = async (attack: Attack) => {
    const result = await attack.run(f.net, f.x, f.labels);
    withinBall(await result.adversarial.floats(), f.images, f.size, attack.norm, attack.eps);
    result.adversarial.dispose();
    return { count: result.success.filter(Boolean).length, loss: result.loss.reduce((a, b) => a + b, 0) };
  };
  for (const [norm, eps] of [
    ['Linf', 5 / 255],
    ['L2', 0.4],
    ['L1', 8],
  ] as const) {
    const fgsm = await broken(new Fgsm({ norm, eps }));
    const pgd = (steps: number, radius = eps) =>
      new Pgd({ norm, eps: radius, steps, stepSize: eps / 4, randomStart: false, keep: 'best', seed: 0 });
    const few = await broken(pgd(4));
    const many = await broken(pgd(10));
    assert.ok(many.loss >= few.loss && many.count >= few.count, 'more steps are worse');
    assert.ok((await broken(pgd(10, 2 * eps))).loss > many.loss, 'a larger eps is worse');
    const others = [
      new Apgd({ norm, eps, loss: 'ce', steps: 10 }),
      new Apgd({ norm, eps, loss: 'dlr', steps: 10 }),
    ];
    assert.ok(many.count >= fgsm.count, `pgd ${norm} is weaker than FGSM`);
    for (const attack of [...others, new Fab({ norm, eps, targeted: true, targetClasses: 1, steps: 8 })])
      assert.ok((await broken(attack)).count >= fgsm.count, `${attack.name} ${norm} is weaker than FGSM`);
  }
  assert.is(device.memory().tensors, before, 'tensors left behind');
  f.dispose();
});

test('targeted attacks reach their targets', async () => {
  const f = await fashion(3);
  const targets = f.labels.map((y) => (y + 3) % 10);
  const attack = new Pgd({
    eps: 0.3,
    steps: 15,
    stepSize: 0.03,
    randomStart: false,
    seed: 0,
    targeted: true,
  });
  const result = await attack.run(f.net, f.x, f.labels, { targets });
  const out = f.device.scope(() => f.net.logits(result.adversarial));
  const z = await out.floats();
  const reached = targets.filter((t, i) => {
    const row = z.subarray(10 * i, 10 * i + 10);
    return row.indexOf(Math.max(...row)) === t;
  });
  assert.is(reached.length, 3, 'targets reached');
  assert.ok(result.success.every(Boolean));
  for (const u of [out, result.adversarial]) u.dispose();
  f.dispose();
});

test('options that make no sense are refused in one line', async () => {
  const refuses = (make: () => unknown, pattern: RegExp) =>
    assert.throws(
      make,
      (e: Error) => e instanceof InputError && pattern.test(e.message) && !e.message.includes('\n'),
    );
  const pgd = { eps: 0.1, steps: 5, stepSize: 0.1, randomStart: false, seed: 0 };
  refuses(() => new Fgsm({ eps: 8 }), /eps must be in \[0, 1\] pixel units, got 8; did you mean 8\/255\?/);
  refuses(() => new Pgd({ ...pgd, steps: 0 }), /steps must be a positive integer, got 0/);
  refuses(() => new Pgd({ ...pgd, stepSize: 2 }), /step size must be in \(0, 1\], got 2/);
  refuses(() => new Pgd({ ...pgd, restarts: 3 }), /3 restarts without a random start are all the same/);
  refuses(() => new Pgd({ ...pgd, norm: 'L0' as Norm }), /norm "L0" is not known; there are Linf, L2, L1/);
  refuses(() => new Pgd({ ...pgd, seed: -1 }), /seed must be an integer/);
  refuses(() => new Pgd({ ...pgd, eot: { draws: 2, reduction: { worst: 3 } } }), /worst 3 of 2 draws/);
  refuses(() => new Apgd({ norm: 'L2', eps: Number.NaN, loss: 'ce' }), /eps must be a finite number/);
  refuses(() => new Apgd({ norm: 'L2', eps: 1, loss: 'ce', rho: 2 }), /rho must be in \(0, 1\], got 2/);
  refuses(() => new Fab({ norm: 'L2', eps: 1, targeted: true, eta: 0 }), /eta must be in \(0, 2\], got 0/);
  refuses(() => new Square({ norm: 'L2', eps: 1, p: 0 }), /p must be in \(0, 1\], got 0/);
  refuses(
    () => new AutoAttack({ norm: 'Linf', eps: 0.1, version: 'fast' as 'plus' }),
    /version "fast" is not known/,
  );
  refuses(() => new AutoAttack({ norm: 'Linf', eps: 0.1, attacks: ['square'] }), /take version custom/);
  refuses(
    () => new AutoAttack({ norm: 'Linf', eps: 0.1, version: 'custom' }),
    /version custom needs attacks/,
  );
  const other = new Fgsm({ eps: 0.2 });
  refuses(
    () => new AutoAttack({ norm: 'Linf', eps: 0.1, version: 'custom', attacks: [other] }),
    /fgsm is for Linf 0.2, the ensemble for Linf 0.1/,
  );

  const t = await toy();
  const bright = t.device.tensor(
    t.images.map((v) => 255 * v),
    t.x.shape,
  );
  await rejects(() => new Pgd(pgd).run(t.net, bright, t.labels), /pixels must be in \[0, 1\]/);
  await rejects(() => new Pgd({ ...pgd, targeted: true }).run(t.net, t.x, t.labels), /needs hooks.targets/);
  await rejects(
    () => new Pgd(pgd).run({ ...t.net, classes: 9 }, t.x, t.labels),
    /logits \[6,6\], wanted \[6,9\]/,
  );
  await rejects(() => new Pgd(pgd).run(t.net, t.x, [9, ...t.labels.slice(1)]), /label 9 is outside 0..5/);
  bright.dispose();
  t.dispose();
});

/** A target of one pixel with what it gives of it. */
async function pixel(value: number, n: number, logits: (u: Tensor) => Tensor[]) {
  const device = await testDevice();
  const x = device.tensor(new Array<number>(n).fill(value), [n, 1, 1, 1]);
  const target: GraphTarget = {
    classes: logits(x).length,
    logits: (u) => concat(logits(reshape(u, [u.shape[0] as number, 1])), 1),
  };
  return { x, target };
}

test('the loss that is told is that of the image that is given, also where another point has a higher one', async () => {
  // Class 1 is above class 0 near 0.5 alone; class 2 makes the loss of class 0 highest at 1, where class 0 is right again.
  const { x, target } = await pixel(0, 1, (u) => [
    affine(u, 0),
    add(affine(u, 0.6, -0.05), affine(square(u), -0.6)),
    affine(u, 2.98, -3),
  ]);
  const attack = new Pgd({ eps: 1, steps: 4, stepSize: 0.25, randomStart: false, keep: 'best', seed: 0 });
  const { adversarial, success, loss } = await attack.run(target, x, [0]);
  assert.equal(success, [true]);
  const y = x.device.zeros([1], 'u32');
  const given = await crossEntropy(target.logits(adversarial, {} as Draw), y).floats();
  assert.ok(Math.abs((loss[0] as number) - (given[0] as number)) < 1e-6, `${loss}, ${given}`);
  for (const tensor of [adversarial, y]) tensor.dispose();
  x.dispose();
});

test('what is misread stays so: a random start without a gradient to follow does not make it right', async () => {
  const n = 16;
  const { x, target } = await pixel(0.49, n, (u) => [sign(affine(u, -1, 0.5)), sign(affine(u, 1, -0.5))]);
  const labels = new Array<number>(n).fill(1);
  const attack = new Pgd({ eps: 0.1, steps: 2, stepSize: 0.05, randomStart: true, keep: 'best', seed: 0 });
  const { adversarial, success } = await attack.run(target, x, labels);
  assert.ok(success.every(Boolean));
  const points = await adversarial.floats();
  assert.ok(
    points.every((v) => v < 0.5),
    String(points),
  );
  for (const tensor of [x, adversarial]) tensor.dispose();
});

test.run();
