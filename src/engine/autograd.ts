/**
 * Reverse-mode differentiation. An operation that has a gradient calls `differentiable` with a function from the
 * cotangent of its output to the cotangents of its inputs; those functions are written as kernels beside the
 * operation. Nothing is recorded unless an input is being differentiated.
 *
 *     const { output, pullback } = vjp((x) => loss(x), [x]);
 *     const [dx] = pullback(cotangent);
 */
import type { Device } from './device.ts';
import { CmapError, check } from './errors.ts';
import { checkFloats, gone, type Tensor } from './tensor.ts';

export interface Node {
  readonly name: string;
  readonly inputs: readonly Tensor[];
  /** What `backward` reads besides: constants such as labels. */
  readonly beside?: readonly Tensor[];
  /** Versions of the memory of inputs, output and what is beside that the gradient is of. */
  readonly versions?: readonly number[];
  /**
   * Cotangents of the inputs from the output's. `needs[i]` says whether input i's is wanted; others may be null.
   * A returned tensor is owned by the caller and may be the argument itself.
   */
  readonly backward: (dy: Tensor, needs: readonly boolean[]) => readonly (Tensor | null)[];
}

let recording = true;
/** Nodes made since the innermost `recompute` began. */
let made: Set<Node> | null = null;

/** Attaches the gradient of an operation to its output. Returns the output. */
export function differentiable(
  name: string,
  inputs: readonly Tensor[],
  output: Tensor,
  backward: Node['backward'],
  beside: readonly Tensor[] = [],
): Tensor {
  output.device.named(`${name} [${output.shape}]`);
  if (recording && inputs.some((x) => x.node)) {
    const versions = [...inputs, output, ...beside].map((x) => x.storage.version);
    output.node = { name, inputs, backward, beside, versions };
    made?.add(output.node);
  }
  return output;
}

/** f's value of the inputs; what f makes besides is given back at once, unless a gradient may need it. */
export function tidy(inputs: readonly Tensor[], f: () => Tensor): Tensor {
  const [first] = inputs;
  return !first || (recording && inputs.some((x) => x.node)) ? f() : first.device.scope(f);
}

/** Runs `f` without recording gradients. */
export function noGrad<T>(f: () => T): T {
  const before = recording;
  recording = false;
  try {
    return f();
  } finally {
    recording = before;
  }
}

/**
 * f's value, whose intermediate results are not kept for the gradient but computed again when it is taken
 * (activation checkpointing, Chen et al. 2016). f must give the same value again; what it reads besides its own
 * results must live until then.
 * @param beside f may put other results here, which are kept and have no gradient
 */
export function recompute(device: Device, f: () => Tensor, beside: Tensor[] = []): Tensor {
  if (!recording) return device.scope(() => [f(), ...beside] as const)[0];
  const before = made;
  const nodes = new Set<Node>();
  let outer: Tensor[] = [];
  let output: Tensor;
  made = nodes;
  try {
    [output] = device.scope(() => {
      const value = f();
      // Found while f's own tensors are still there: what of the outside the value depends on.
      outer = outside(value, nodes);
      return [value, ...beside] as const;
    });
  } finally {
    made = before;
  }
  if (!output.node || !nodes.has(output.node)) return output;
  output.node = null;
  return differentiable('recompute', outer, output, (dy, needs) => {
    const wanted = outer.filter((_, i) => needs[i]);
    const gradients = device.scope(() => {
      const was = recording;
      recording = true;
      let again: Tensor;
      try {
        again = f();
      } finally {
        recording = was;
      }
      return pull(again, wanted, dy);
    });
    let next = 0;
    return outer.map((_, i) => (needs[i] ? (gradients[next++] as Tensor) : null));
  });
}

/** Watched tensors, not made by one of `nodes`, that `value` was computed from. */
function outside(value: Tensor, nodes: ReadonlySet<Node>): Tensor[] {
  const found = new Set<Tensor>();
  const seen = new Set<Tensor>();
  const stack = [value];
  for (let tensor = stack.pop(); tensor; tensor = stack.pop()) {
    if (seen.has(tensor) || !tensor.node) continue;
    seen.add(tensor);
    if (nodes.has(tensor.node)) stack.push(...tensor.node.inputs);
    else found.add(tensor);
  }
  return [...found];
}

const leaf: Node['backward'] = () => [];

/** What `vjp` returns. */
export interface Vjp {
  readonly output: Tensor;
  /**
   * d<output, cotangent>/d inputs[i], which the caller disposes. A cotangent of all ones is taken when none is given; an input that
   * the output does not depend on gets zeros. These gradients are constants to a differentiation around this one, which is
   * refused where it would need their own.
   */
  pullback(cotangent?: Tensor): Tensor[];
  /** Gives back what f made, the output too. */
  dispose(): void;
}

/**
 * f and its vector-Jacobian product at `inputs`. What f makes lives until `dispose`, or until the surrounding `scope` ends, as
 * the gradient needs it: a loop wants either.
 */
export function vjp(f: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Vjp {
  const before = recording;
  const run = () => {
    const watched = inputs.map((x) => {
      const y = x.alias();
      y.node = { name: 'input', inputs: x.node ? [x] : [], backward: x.node ? (dy) => [dy] : leaf };
      return y;
    });
    recording = true;
    return { watched, output: f(...watched) };
  };
  let alive: ReadonlySet<Tensor> = new Set();
  let result: ReturnType<typeof run>;
  try {
    if (inputs[0]) ({ result, made: alive } = inputs[0].device.gather(run));
    else result = run();
  } finally {
    recording = before;
  }
  const { watched, output } = result;
  const outer = inputs.filter((x) => x.node);
  const pullback = (cotangent?: Tensor) => {
    const gradients = noGrad(() => output.device.scope(() => pull(output, watched, cotangent)));
    if (!recording || outer.length === 0) return gradients;
    const backward = () => {
      throw new CmapError(
        'pullback: no gradient of a gradient can be taken; where it is meant as a constant, take it inside noGrad',
      );
    };
    for (const g of gradients) {
      g.node = { name: 'gradient', inputs: outer, backward };
      made?.add(g.node);
    }
    return gradients;
  };
  const dispose = () => {
    for (const tensor of alive) tensor.dispose();
  };
  return { output, pullback, dispose };
}

/** Value and gradient of a function whose output is summed. */
export function valueAndGrad(
  f: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
): { value: Tensor; gradients: Tensor[] } {
  const { output, pullback } = vjp(f, inputs);
  return { value: output, gradients: pullback() };
}

function pull(output: Tensor, wanted: readonly Tensor[], cotangent: Tensor | undefined): Tensor[] {
  const device = output.device;
  if (output.node === gone) {
    throw new CmapError(
      `pullback: the output [${output.shape}] was disposed; end its scope after the pullback`,
    );
  }
  if (cotangent) {
    checkFloats('pullback', { cotangent });
    check(
      cotangent.device === device,
      () => `pullback: cotangent [${cotangent.shape}] lives on another device`,
    );
    check(
      String(cotangent.shape) === String(output.shape),
      () => `pullback: cotangent is [${cotangent.shape}], the output is [${output.shape}]`,
    );
  }
  // Only nodes on a path to a wanted input take part.
  const targets = new Set(wanted);
  const order: Tensor[] = [];
  const reaches = new Map<Tensor, boolean>();
  // Explicit stack: graphs of unrolled loops are deeper than the call stack.
  const stack: [Tensor, number][] = output.node ? [[output, 0]] : [];
  while (stack.length > 0) {
    const top = stack[stack.length - 1] as [Tensor, number];
    const [tensor, next] = top;
    const parents = tensor.node && !targets.has(tensor) ? tensor.node.inputs : [];
    if (next === 0 && reaches.has(tensor)) {
      stack.pop();
    } else if (next < parents.length) {
      top[1]++;
      const parent = parents[next] as Tensor;
      if (parent.node === gone) {
        throw new CmapError(
          `pullback: an input [${parent.shape}] of ${tensor.node?.name} was disposed; end its scope after the pullback`,
        );
      }
      if (parent.node && !reaches.has(parent)) stack.push([parent, 0]);
    } else {
      stack.pop();
      if (reaches.has(tensor)) continue;
      const reach = targets.has(tensor) || parents.some((p) => reaches.get(p));
      reaches.set(tensor, reach);
      if (reach) order.push(tensor);
    }
  }

  const cotangents = new Map<Tensor, Tensor>();
  if (reaches.get(output)) cotangents.set(output, cotangent ?? device.full(output.shape, 1));
  for (let i = order.length - 1; i >= 0; i--) {
    const tensor = order[i] as Tensor;
    const dy = cotangents.get(tensor);
    const node = tensor.node;
    if (!dy || !node || targets.has(tensor)) continue;
    cotangents.delete(tensor);
    const needs = node.inputs.map((x) => reaches.get(x) === true);
    const changed = [...node.inputs, tensor, ...(node.beside ?? [])].find(
      (x, j) => x.storage.version !== (node.versions?.[j] ?? x.storage.version),
    );
    if (changed)
      throw new CmapError(
        `pullback: [${changed.shape}] of ${node.name} was written after it was computed with; take the gradient first`,
      );
    const gradients = node.backward(dy, needs);
    device.named(`the gradient of ${node.name} [${tensor.shape}]`);
    node.inputs.forEach((input, j) => {
      const g = gradients[j];
      if (!needs[j] || !g) return;
      check(
        String(g.shape) === String(input.shape),
        () => `${node.name}: gradient of input ${j} is [${g.shape}], the input is [${input.shape}]`,
      );
      const sum = cotangents.get(input);
      cotangents.set(input, sum ? device.accumulate(sum, g) : g);
    });
  }
  // One tensor may be the gradient of several inputs, or the cotangent: the caller disposes of each on its own.
  const given = new Set(cotangent ? [cotangent] : []);
  return wanted.map((x) => {
    const gradient = cotangents.get(x);
    if (!gradient) return device.full(x.shape, 0);
    if (given.has(gradient)) return gradient.alias();
    given.add(gradient);
    return gradient;
  });
}
