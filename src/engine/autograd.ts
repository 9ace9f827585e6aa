/**
 * Reverse-mode differentiation. An operation that has a gradient calls `differentiable` with a function from the
 * cotangent of its output to the cotangents of its inputs; those functions are written as kernels beside the
 * operation. Nothing is recorded unless an input is being differentiated.
 *
 *     const { output, pullback } = vjp((x) => loss(x), [x]);
 *     const [dx] = pullback(cotangent);
 */
import { CmapError, check } from './errors.ts';
import { gone, type Tensor } from './tensor.ts';

export interface Node {
  readonly name: string;
  readonly inputs: readonly Tensor[];
  /**
   * Cotangents of the inputs from the output's. `needs[i]` says whether input i's is wanted; others may be null.
   * A returned tensor is owned by the caller and may be the argument itself.
   */
  readonly backward: (dy: Tensor, needs: readonly boolean[]) => readonly (Tensor | null)[];
}

let recording = true;

/** Attaches the gradient of an operation to its output. Returns the output. */
export function differentiable(
  name: string,
  inputs: readonly Tensor[],
  output: Tensor,
  backward: Node['backward'],
): Tensor {
  if (recording && inputs.some((x) => x.node)) output.node = { name, inputs, backward };
  return output;
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

const leaf: Node['backward'] = () => [];

/**
 * f and its vector-Jacobian product at `inputs`.
 * @returns the output, and `pullback(cotangent)`: d<output, cotangent>/d inputs[i]; a cotangent of all ones is
 *   taken when none is given; an input that the output does not depend on gets zeros
 */
export function vjp(
  f: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
): { output: Tensor; pullback: (cotangent?: Tensor) => Tensor[] } {
  const watched = inputs.map((x) => {
    const y = x.alias();
    y.node = { name: 'input', inputs: x.node ? [x] : [], backward: x.node ? (dy) => [dy] : leaf };
    return y;
  });
  const before = recording;
  recording = true;
  let output: Tensor;
  try {
    output = f(...watched);
  } finally {
    recording = before;
  }
  return { output, pullback: (cotangent) => noGrad(() => pull(output, watched, cotangent)) };
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
  if (cotangent) {
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
    const parents = tensor.node ? tensor.node.inputs : [];
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
    const gradients = node.backward(dy, needs);
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
  return wanted.map((x) => cotangents.get(x) ?? device.full(x.shape, 0));
}
