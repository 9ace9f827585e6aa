/**
 * A Program is a function of tensors recorded once into a flat list of dispatches. Its intermediate memory is
 * planned from liveness (two tensors share a buffer when their lives do not overlap), its pipelines, bind groups
 * and params are made once, and a run only replays the list: no allocation, no bind group, no pipeline. The
 * kernels are those of eager execution, so a replay equals it bit for bit.
 */
import { type Device, type Grid, SLOT } from './device.ts';
import { CmapError } from './errors.ts';
import { type Kernel, kernel, linearGrid, type ParamValues, packParams } from './kernel.ts';
import notFiniteSource from './not-finite.wgsl';
import { sizeClass } from './pool.ts';
import { Storage, Tensor } from './tensor.ts';

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

  constructor(readonly device: Device) {}

  /** Says what the steps are that have no name yet. */
  name(operation: string): void {
    for (; this.#named < this.steps.length; this.#named++) {
      const step = this.steps[this.#named] as Step;
      step.operation = operation;
    }
  }

  storage(bytes: number): Storage {
    const storage = new Storage(bytes, null);
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

interface Dispatch {
  readonly kernel: Kernel;
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly grid: Grid;
  readonly flops: number;
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
    plannedBytes: plan.sizes.reduce((a, b) => a + b, 0),
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
  readonly #buffers: GPUBuffer[] = [];
  readonly #owned: Set<Storage>;
  readonly #uniform: GPUBuffer;
  readonly #outputTensors: readonly Tensor[];
  #steps: readonly Step[];
  #dispatches: Dispatch[] | null = null;

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
    this.#outputTensors = outputTensors.filter((t) => recorder.virtual.has(t.storage));
    const { lives, plan, cost } = planOf(recorder, this.#outputTensors);
    this.cost = cost;
    const params = new DataView(new ArrayBuffer(Math.max(SLOT, SLOT * recorder.steps.length)));
    recorder.steps.forEach((step, i) => {
      packParams(step.kernel, step.params, params, i * SLOT);
    });
    try {
      for (const bytes of plan.sizes) this.#buffers.push(device.acquire(bytes, `program ${name}`));
    } catch (error) {
      for (const buffer of this.#buffers) device.giveBack(buffer);
      throw error;
    }
    for (const [storage, slot] of plan.slots) storage.buffer = this.#buffers[slot] as GPUBuffer;
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
      this.#steps.map((step) => step.kernel),
      onProgress,
    );
    this.#ready();
    return this;
  }

  /**
   * Replays the recorded dispatches, `times` times in one submission. Returns the outputs, whose tensors hold the results of
   * the latest run.
   */
  run(times = 1): T {
    const dispatches = this.#ready();
    for (let i = 0; i < times; i++)
      for (const d of dispatches) this.device.dispatch(d.kernel, d.pipeline, d.bindGroup, d.grid, d.flops);
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
    for (const buffer of this.#buffers) encoder.clearBuffer(buffer);
    device.handle.queue.submit([encoder.finish()]);
    const first = device.tensor([0xffffffff], [1], 'u32');
    this.#ready().forEach((d, index) => {
      device.dispatch(d.kernel, d.pipeline, d.bindGroup, d.grid, d.flops);
      const { storages } = this.#steps[index] as Step;
      d.kernel.bindings.forEach(({ writable }, i) => {
        if (!writable) return;
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
    if (this.#steps.length === 0 && this.#buffers.length === 0) return;
    this.device.flush();
    const given = new Set<GPUBuffer>(this.#buffers);
    for (const step of this.#steps) {
      for (const storage of step.storages)
        if (storage.buffer && given.has(storage.buffer)) storage.buffer = null;
    }
    for (const tensor of this.#outputTensors) tensor.dispose();
    for (const buffer of this.#buffers) this.device.giveBack(buffer);
    for (const storage of this.#owned) this.device.drop(storage);
    this.#owned.clear();
    this.#buffers.length = 0;
    this.#steps = [];
    this.#dispatches = [];
    this.#uniform.destroy();
  }

  #ready(): Dispatch[] {
    if (this.#dispatches) return this.#dispatches;
    this.#dispatches = this.#steps.map((step, i) => {
      const { pipeline, layout } = this.device.pipelines.get(step.kernel);
      const bindGroup = this.device.bindGroup(step.kernel, layout, step.storages, this.#uniform, i * SLOT);
      return { kernel: step.kernel, pipeline, bindGroup, grid: step.grid, flops: step.flops };
    });
    return this.#dispatches;
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

/**
 * Greedy by size: the largest storage first, each into the first buffer none of whose tenants lives at the same
 * time. Buffers are never larger than their largest tenant.
 */
export function planMemory(lives: readonly Life[]): { sizes: number[]; slots: Map<Storage, number> } {
  const sizes: number[] = [];
  const tenants: Life[][] = [];
  const slots = new Map<Storage, number>();
  for (const life of [...lives].sort((a, b) => b.storage.bytes - a.storage.bytes)) {
    let slot = tenants.findIndex((all) =>
      all.every((other) => life.last < other.first || other.last < life.first),
    );
    if (slot < 0) {
      slot = tenants.push([]) - 1;
      sizes.push(sizeClass(life.storage.bytes));
    }
    (tenants[slot] as Life[]).push(life);
    slots.set(life.storage, slot);
  }
  return { sizes, slots };
}
