/**
 * A Program is a function of tensors recorded once into a flat list of dispatches. Its intermediate memory is
 * planned from liveness (two tensors share a buffer when their lives do not overlap), its pipelines, bind groups
 * and params are made once, and a run only replays the list: no allocation, no bind group, no pipeline. The
 * kernels are those of eager execution, so a replay equals it bit for bit.
 */
import { type Device, type Grid, SLOT } from './device.ts';
import { CmapError, check } from './errors.ts';
import { type Kernel, kernel, linearGrid, type ParamValues, packParams } from './kernel.ts';
import notFiniteSource from './not-finite.wgsl';
import { sizeClass } from './pool.ts';
import { isBuffer, type Memory, Storage, Tensor } from './tensor.ts';
import { texelCopy } from './texels.ts';

interface Step {
  readonly kernel: Kernel;
  readonly storages: readonly Storage[];
  readonly params: ParamValues;
  readonly grid: Grid;
  readonly flops: number;
  /** The operation that dispatched it, and its result's shape; empty outside of differentiable ones. */
  operation?: string;
}

/** What a Device writes to while a program is recorded. */
export class Recorder {
  readonly steps: Step[] = [];
  readonly virtual = new Set<Storage>();
  /** Storages the program must keep alive although nobody else may. */
  readonly owned = new Set<Storage>();
  #named = 0;

  /** Says what the steps are that have no name yet. */
  name(operation: string): void {
    for (; this.#named < this.steps.length; this.#named++) {
      const step = this.steps[this.#named] as Step;
      step.operation = operation;
    }
  }

  storage(bytes: number, texels: boolean): Storage {
    const storage = new Storage(bytes, null, texels);
    this.virtual.add(storage);
    return storage;
  }

  own(storage: Storage): void {
    if (this.owned.has(storage)) return;
    storage.references++;
    this.owned.add(storage);
  }

  push(step: Step): void {
    for (const storage of step.storages) if (!this.virtual.has(storage)) this.own(storage);
    this.steps.push(step);
  }
}

/** The dispatch of a run that first wrote a number that is not finite. */
export interface NotFinite {
  readonly kernel: string;
  /** `conv2d [8,32,32,64]`, `the gradient of conv2d [8,32,32,64]`, or empty. */
  readonly operation: string;
  /** 0 … count − 1. */
  readonly index: number;
  /** Dispatches of a run. */
  readonly count: number;
}

interface Dispatch extends Step {
  /** Null for a copy into texels. */
  readonly bound: { readonly pipeline: GPUComputePipeline; readonly bindGroup: GPUBindGroup } | null;
}

/** What a program needs, known before it holds anything. */
export interface ProgramCost {
  /** Bytes of intermediate and output memory. */
  readonly plannedBytes: number;
  /** The most bytes that are alive at one time: no plan for this order of steps needs less. */
  readonly minimumBytes: number;
  /** Bytes if nothing shared memory. */
  readonly unplannedBytes: number;
  /** Floating-point operations of a run, as far as the operations state them. */
  readonly flops: number;
  readonly dispatches: number;
}

function planOf(recorder: Recorder, outputs: readonly Tensor[]) {
  const pinned = new Set(outputs.map((t) => t.storage).filter((storage) => recorder.virtual.has(storage)));
  const lives = lifetimes(recorder.steps, recorder.virtual, pinned);
  const plan = planMemory(lives);
  const events = lives
    .flatMap(({ storage, first, last }) => [
      { at: first, bytes: storage.bytes },
      { at: last + 0.5, bytes: -storage.bytes },
    ])
    .sort((a, b) => a.at - b.at);
  let alive = 0;
  let minimumBytes = 0;
  for (const { bytes } of events) {
    alive += bytes;
    minimumBytes = Math.max(minimumBytes, alive);
  }
  const cost: ProgramCost = {
    plannedBytes: plan.slots.reduce((sum, { bytes }) => sum + sizeClass(bytes), 0),
    minimumBytes,
    unplannedBytes: lives.reduce((sum, life) => sum + sizeClass(life.storage.bytes), 0),
    flops: recorder.steps.reduce((sum, step) => sum + step.flops, 0),
    dispatches: recorder.steps.length,
  };
  return { lives, plan, cost };
}

/** The cost of what was recorded. */
export function costOf(recorder: Recorder, outputs: readonly Tensor[]): ProgramCost {
  return planOf(recorder, outputs).cost;
}

export class Program<T> {
  readonly cost: ProgramCost;
  readonly #memory: Memory[] = [];
  readonly #owned: Set<Storage>;
  /** What a run writes. */
  readonly #written: Set<Storage>;
  readonly #uniform: GPUBuffer;
  readonly #outputTensors: readonly Tensor[];
  #steps: readonly Step[];
  #dispatches: Dispatch[] | null = null;
  #disposed = false;

  constructor(
    readonly device: Device,
    readonly name: string,
    recorder: Recorder,
    /** What the recorded function returned; its tensors hold the results of the last run. */
    readonly outputs: T,
    outputTensors: readonly Tensor[],
  ) {
    this.#steps = recorder.steps;
    this.#owned = recorder.owned;
    this.#written = new Set(
      recorder.steps.flatMap(({ kernel: k, storages }) => storages.filter((_, i) => k.bindings[i]?.writable)),
    );
    this.#outputTensors = outputTensors;
    const { lives, plan, cost } = planOf(recorder, this.#outputTensors);
    this.cost = cost;
    const params = new DataView(new ArrayBuffer(Math.max(SLOT, SLOT * recorder.steps.length)));
    recorder.steps.forEach((step, i) => {
      packParams(step.kernel, step.params, params, i * SLOT);
    });
    try {
      for (const { bytes, texels } of plan.slots)
        this.#memory.push(device.acquire(bytes, `program ${name}`, texels));
    } catch (error) {
      for (const memory of this.#memory) device.giveBack(memory);
      throw error;
    }
    for (const [storage, slot] of plan.slotOf) storage.memory = this.#memory[slot] as Memory;
    // The program owns this memory: disposing of an output must not give it to the pool.
    for (const life of lives) life.storage.references++;
    this.#uniform = device.handle.createBuffer({
      size: params.byteLength,
      usage: 0x40 | 0x8,
      label: `params ${name}`,
    });
    device.handle.queue.writeBuffer(this.#uniform, 0, params.buffer as ArrayBuffer);
  }

  /** Which kernels run, on which grids: programs that agree do the same. */
  get signature(): string {
    return this.#steps.map(({ kernel, grid }) => `${kernel.name} ${grid}`).join('; ');
  }

  /** Compiles the program's kernels. Optional: the first run does it too, without progress. */
  async prepare(onProgress?: (done: number, total: number) => void): Promise<this> {
    await this.device.pipelines.warm(
      this.#steps.map((step) => step.kernel).filter((k) => k !== texelCopy),
      onProgress,
    );
    this.#ready();
    return this;
  }

  /**
   * Replays the recorded dispatches, `times` times, and submits them. Returns the outputs, whose tensors hold the results of
   * the latest run.
   */
  run(times = 1): T {
    const dispatches = this.#ready();
    // Before the first dispatch: the last may have ended its submission, and the number be that of one still to come.
    if (times > 0) this.device.touch(this.#owned, this.#written);
    for (let i = 0; i < times; i++) for (const d of dispatches) this.#dispatch(d);
    this.device.flush();
    return this.outputs;
  }

  /**
   * A run that looks at what each dispatch wrote.
   * @returns the first that wrote what is not finite; null where everything is
   */
  async firstNotFinite(): Promise<NotFinite | null> {
    const { device } = this;
    device.flush();
    // What earlier runs left could be taken for something that this one wrote.
    const encoder = device.handle.createCommandEncoder();
    for (const memory of this.#memory) if (isBuffer(memory)) encoder.clearBuffer(memory);
    device.handle.queue.submit([encoder.finish()]);
    const first = device.tensor([0xffffffff], [1], 'u32');
    const dispatches = this.#ready();
    device.touch(this.#owned, this.#written);
    dispatches.forEach((d, index) => {
      this.#dispatch(d);
      const { storages } = this.#steps[index] as Step;
      d.kernel.bindings.forEach(({ writable, texels }, i) => {
        // A copy shows in what reads it.
        if (!writable || texels) return;
        const storage = storages[i] as Storage;
        const count = storage.bytes / 4;
        const x = new Tensor(device, [count], 'u32', storage);
        device.run(kernel('not-finite', notFiniteSource), { x, first }, { count, index }, linearGrid(count));
      });
    });
    const [index] = (await first.read()) as Uint32Array;
    first.dispose();
    const step = this.#steps[index as number];
    if (!step) return null;
    const { kernel: found, operation = '' } = step;
    return {
      kernel: found.name.replace(/\[.*/s, ''),
      operation,
      index: index as number,
      count: this.#steps.length,
    };
  }

  /** Gives the program's memory back; its outputs can no longer be read. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.device.flush();
    const given = new Set<Memory>(this.#memory);
    for (const step of this.#steps) {
      for (const storage of step.storages)
        if (storage.memory && given.has(storage.memory)) storage.memory = null;
    }
    for (const tensor of this.#outputTensors) tensor.dispose();
    for (const memory of this.#memory) this.device.giveBack(memory);
    for (const storage of this.#owned) this.device.drop(storage);
    this.#owned.clear();
    this.#memory.length = 0;
    this.#steps = [];
    this.#dispatches = [];
    this.#uniform.destroy();
  }

  #ready(): Dispatch[] {
    const { name } = this;
    check(
      !this.device.recording,
      () => `program ${name}: a program is being recorded, which would not hold this run`,
    );
    if (this.#dispatches) return this.#dispatches;
    this.#dispatches = this.#steps.map((step, i) => {
      if (step.kernel === texelCopy) return { ...step, bound: null };
      const { pipeline, layout } = this.device.pipelines.get(step.kernel);
      const bindGroup = this.device.bindGroup(step.kernel, layout, step.storages, this.#uniform, i * SLOT);
      return { ...step, bound: { pipeline, bindGroup } };
    });
    return this.#dispatches;
  }

  #dispatch({ kernel, storages, bound, grid, flops }: Dispatch): void {
    if (bound) this.device.dispatch(kernel, bound.pipeline, bound.bindGroup, grid, flops);
    else this.device.copyIntoTexels(storages);
  }
}

export interface Life {
  readonly storage: Storage;
  /** First and last step that touches it. */
  readonly first: number;
  readonly last: number;
}

/** Lives of the virtual storages; a pinned one (an output) lives to the end of time. */
export function lifetimes(
  steps: readonly { kernel: Kernel; storages: readonly Storage[] }[],
  virtual: ReadonlySet<Storage>,
  pinned: ReadonlySet<Storage>,
): Life[] {
  const lives = new Map<Storage, { storage: Storage; first: number; last: number }>();
  steps.forEach(({ kernel, storages }, i) => {
    storages.forEach((storage, j) => {
      if (!virtual.has(storage)) return;
      const life = lives.get(storage);
      if (life) {
        life.last = i;
      } else {
        if (!kernel.bindings[j]?.writable) {
          throw new CmapError(`${kernel.name}: ${kernel.bindings[j]?.name} is read before anything wrote it`);
        }
        lives.set(storage, { storage, first: i, last: i });
      }
    });
  });
  for (const storage of pinned) {
    const life = lives.get(storage);
    if (!life) throw new CmapError('an output of the program is never written');
    life.first = 0;
    life.last = Number.POSITIVE_INFINITY;
  }
  return [...lives.values()];
}

/** Memory that storages share whose lives do not overlap. */
export interface Slot {
  readonly bytes: number;
  readonly texels: boolean;
}

/**
 * Greedy by size: the largest storage first, each into the first slot of its kind none of whose tenants lives at the same
 * time. Slots are never larger than their largest tenant.
 */
export function planMemory(lives: readonly Life[]): { slots: Slot[]; slotOf: Map<Storage, number> } {
  const slots: Slot[] = [];
  const tenants: Life[][] = [];
  const slotOf = new Map<Storage, number>();
  for (const life of [...lives].sort((a, b) => b.storage.bytes - a.storage.bytes)) {
    const { bytes, texels } = life.storage;
    let slot = tenants.findIndex(
      (all, i) =>
        slots[i]?.texels === texels &&
        all.every((other) => life.last < other.first || other.last < life.first),
    );
    if (slot < 0) {
      slot = tenants.push([]) - 1;
      slots.push({ bytes, texels });
    }
    (tenants[slot] as Life[]).push(life);
    slotOf.set(life.storage, slot);
  }
  return { slots, slotOf };
}
