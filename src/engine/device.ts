/**
 * The device: memory, kernels in order, results back. Everything above it is tensors.
 *
 * Order: operations run in the order they are called; nothing is waited for until a result is read. Commands
 * collect in one compute pass and are submitted every few hundred dispatches, once they are much work, on `read` and on
 * `flush`.
 * Memory: one GPUBuffer a storage, from a pool; `scope` gives back what it made except what it returns.
 * Failures on the device (lost, out of memory, a refused kernel) reject the next `read` or `sync`. The driver drops a submission
 * whole: every tensor that one may have written, and what is computed with it, goes on rejecting until the host writes to it.
 */

import accumulateSource from './accumulate.wgsl';
import {
  type AdapterRecord,
  deviceDescriptor,
  type OpenedAdapter,
  type OpenOptions,
  openAdapter,
} from './adapter.ts';
import { type Capabilities, capabilitiesOf } from './capabilities.ts';
import { AdapterError, CmapError, check, DeviceLostError } from './errors.ts';
import fillSource from './fill.wgsl';
import { type Binding, type Kernel, kernel, linearGrid, type ParamValues, packParams } from './kernel.ts';
import { Pipelines } from './pipelines.ts';
import { Pool } from './pool.ts';
import { Profiler } from './profile.ts';
import { costOf, Program, type ProgramCost, Recorder } from './program.ts';
import {
  bytesPer,
  type DType,
  type HostData,
  isBuffer,
  type Memory,
  type Numbers,
  type Shape,
  Storage,
  sizeOf,
  Tensor,
} from './tensor.ts';
import { copyIntoTexels, createTexels, texelCopy } from './texels.ts';
import { Tuning } from './tuning.ts';
import { waitFor } from './wait.ts';

const STORAGE = 0x80 | 0x4 | 0x8; // STORAGE | COPY_SRC | COPY_DST
const STAGING = 0x1 | 0x8; // MAP_READ | COPY_DST
const UNIFORM = 0x40 | 0x8; // UNIFORM | COPY_DST
/** Every params struct gets a slot of this size, the largest alignment WebGPU asks of a uniform offset. */
export const SLOT = 256;
const SLOTS = 256;
/**
 * What a submission computes at most, but for its last dispatch: systems end one that keeps a GPU busy for some seconds
 * (Windows and amdgpu after 2), a slow GPU needs a tenth of one for this, a fast one some milliseconds.
 */
const SUBMISSION_FLOPS = 1e11;

export type Grid = readonly [number, number, number];

/** Estimates for the profiler and the bench. */
export interface Work {
  readonly flops?: number;
}

export interface MemoryReport {
  /** Bytes in use by tensors and Programs. */
  readonly liveBytes: number;
  /** Bytes kept for reuse. */
  readonly freeBytes: number;
  readonly peakBytes: number;
  /** Tensors not yet disposed. */
  readonly tensors: number;
  /** Buffers and textures created since the start. */
  readonly buffersCreated: number;
}

export class Device {
  /** What kernels are chosen by; replaced, they are chosen as another device would. */
  capabilities: Capabilities;
  readonly pipelines: Pipelines;
  /** Measured choices of kernels; empty until some are loaded. */
  tuning = new Tuning();
  readonly #pool: Pool<GPUBuffer>;
  readonly #texels: Pool<GPUTexture>;
  readonly #staging: Pool<GPUBuffer>;
  readonly #slots: GPUBuffer;
  #submissionFlops = 0;
  readonly #slotBytes = new DataView(new ArrayBuffer(SLOT * SLOTS));
  #slot = 0;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #failure: Error | null = null;
  /** Number of the submission that is being made, and of the last that is known to have been done. */
  #submission = 1;
  #done = 0;
  /** Submissions that a failure may have emptied: the driver drops one whole, and says so later. */
  readonly #lost: { readonly from: number; to: number; error: Error }[] = [];
  #recorder: Recorder | null = null;
  #scopes: Set<Tensor>[] = [];
  #tensors = 0;
  #profiler: Profiler | null = null;

  /** `gpu` is held for the life of the device: Dawn crashes when it is collected first. */
  private constructor(
    readonly gpu: GPU,
    readonly handle: GPUDevice,
    readonly adapter: AdapterRecord,
  ) {
    const fail = (error: Error) => {
      // A lost device or a refused kernel explains the errors that follow from it.
      if (!this.#failure || weight(error) > weight(this.#failure)) this.#failure = error;
      this.flush(); // what comes now may be sound again
      const [from, to] = [this.#done + 1, this.#submission - 1];
      const last = this.#lost.at(-1);
      if (last?.from === from) {
        last.to = to;
        if (weight(error) > weight(last.error)) last.error = error;
      } else this.#lost.push({ from, to, error });
    };
    this.capabilities = capabilitiesOf(handle, adapter);
    this.pipelines = new Pipelines(handle, fail);
    const full = () => this.trim();
    const buffers = (limit: number, usage: GPUBufferUsageFlags) =>
      new Pool(handle, limit, (size, label) => handle.createBuffer({ size, usage, label }), fail, full);
    const { maxBinding, maxTexels } = this.capabilities;
    this.#pool = buffers(maxBinding, STORAGE);
    this.#texels = new Pool(
      handle,
      maxTexels,
      (size, label) => createTexels(handle, size, label),
      fail,
      full,
    );
    this.#staging = buffers(handle.limits.maxBufferSize, STAGING);
    this.#slots = handle.createBuffer({ size: SLOT * SLOTS, usage: UNIFORM, label: 'params' });
    handle.lost.then((info) => {
      if (info.reason !== 'destroyed')
        fail(new DeviceLostError(`${adapter.name}: device lost: ${info.message}`));
      else fail(new DeviceLostError(`${adapter.name}: device was closed`));
    });
    handle.addEventListener('uncapturederror', (event) => {
      event.preventDefault(); // or the driver prints it too
      fail(new CmapError(`${adapter.name}: ${event.error.message.split('\n')[0]}`));
    });
  }

  /** Opens the best adapter, or the one asked for; see `openAdapter`. */
  static async open(options: OpenOptions = {}): Promise<Device> {
    return Device.on(await openAdapter(options));
  }

  /** On an adapter that is open. */
  static async on({ gpu, adapter, info }: OpenedAdapter): Promise<Device> {
    const handle = await adapter.requestDevice(deviceDescriptor(adapter));
    const device = new Device(gpu, handle, info);
    if (info.precision === 'f16' && device.capabilities.matrix === 0) {
      device.close();
      throw new AdapterError(
        `precision f16: '${info.name}' has no subgroup matrices f16·f16 -> f32 of 16 or 8 (use precision f32, or CMAP_PRECISION=f32)`,
      );
    }
    return device;
  }

  close(): void {
    this.handle.destroy();
  }

  // ---- tensors

  /** A tensor whose elements are undefined until a kernel writes them. */
  empty(shape: Shape, dtype: DType = 'f32'): Tensor {
    for (const d of shape) check(Number.isInteger(d) && d >= 0, () => `tensor: [${shape}] is not a shape`);
    // Kernels may read no elements in vectors: a binding of those has 16 bytes at least.
    const bytes = sizeOf(shape) === 0 ? 16 : Math.ceil((sizeOf(shape) * bytesPer[dtype]) / 4) * 4;
    return this.#make(shape, dtype, bytes, false);
  }

  /** A copy of an f32 tensor in texels, which only kernels read; its size is a multiple of 4. Without a gradient. */
  texelsOf(x: Tensor): Tensor {
    const { shape, dtype, bytes } = x;
    check(
      dtype === 'f32' && bytes > 0 && bytes % 16 === 0,
      () => `texels: ${dtype} [${shape}] is not f32 in a multiple of 4 elements`,
    );
    this.#own('texels', x);
    const y = this.#make(shape, dtype, bytes, true);
    const storages = [x.live(), y.live()] as const;
    if (this.#recorder)
      this.#recorder.push({ kernel: texelCopy, storages, params: {}, grid: [1, 1, 1], flops: 0 });
    else {
      this.touch([storages[0]], [storages[1]]);
      this.copyIntoTexels(storages);
    }
    return y;
  }

  /** Adds the copy of a buffer into texels to the current commands. */
  copyIntoTexels([from, to]: readonly Storage[]): void {
    this.#endPass();
    const [x, y] = [from, to] as [Storage, Storage];
    copyIntoTexels(this.#commands(), backed(x) as GPUBuffer, backed(y) as GPUTexture, y.bytes);
  }

  #make(shape: Shape, dtype: DType, bytes: number, texels: boolean): Tensor {
    const storage = this.#recorder
      ? this.#recorder.storage(bytes, texels)
      : new Storage(bytes, this.acquire(bytes, `tensor [${shape}] ${dtype}`, texels), texels);
    return this.adopt(new Tensor(this, shape, dtype, storage));
  }

  /** A tensor with the given elements, row-major. f16 takes 16-bit patterns. */
  tensor(data: Numbers, shape: Shape = [data.length], dtype: DType = 'f32'): Tensor {
    check(
      data.length === 0 || typeof data[0] === 'number',
      () =>
        `tensor: elements are numbers in one row, got ${Array.isArray(data[0]) ? 'rows of them; give all in one and the shape beside' : typeof data[0]}`,
    );
    check(
      data.length === sizeOf(shape),
      () => `tensor: [${shape}] wants ${sizeOf(shape)} elements, got ${data.length}`,
    );
    const recorder = this.#recorder;
    this.#recorder = null; // data from the host is a constant of the program, not part of it
    try {
      const tensor = this.empty(shape, dtype);
      this.write(tensor, data);
      recorder?.own(tensor.storage);
      return tensor;
    } finally {
      this.#recorder = recorder;
    }
  }

  full(shape: Shape, value: number, dtype: 'f32' | 'u32' | 'i32' = 'f32'): Tensor {
    const out = this.empty(shape, dtype);
    const bits = new DataView(new ArrayBuffer(4));
    if (dtype === 'f32') bits.setFloat32(0, value);
    else if (dtype === 'i32') bits.setInt32(0, value);
    else bits.setUint32(0, value);
    this.run(
      kernel('fill', fillSource),
      { y: out },
      { count: out.size, bits: bits.getUint32(0) },
      linearGrid(out.size),
    );
    return out;
  }

  zeros(shape: Shape, dtype: 'f32' | 'u32' | 'i32' = 'f32'): Tensor {
    return this.full(shape, 0, dtype);
  }

  /** a + b of equal shapes; the engine's own, for sums of gradients. */
  accumulate(a: Tensor, b: Tensor): Tensor {
    const out = this.empty(a.shape);
    const wide = a.size % 4 === 0;
    const count = wide ? a.size / 4 : a.size;
    this.run(
      kernel('accumulate', accumulateSource, { T: wide ? 'vec4<f32>' : 'f32' }),
      { a, b, y: out },
      { count },
      linearGrid(count),
    );
    return out;
  }

  write(tensor: Tensor, data: Numbers): void {
    check(!this.#recorder, () => 'write: a program is being recorded; write to its inputs between runs');
    this.#own('write', tensor);
    check(
      data.length === tensor.size,
      () => `write: tensor [${tensor.shape}] has ${tensor.size} elements, got ${data.length}`,
    );
    const types = { f32: Float32Array, u32: Uint32Array, i32: Int32Array, f16: Uint16Array };
    const Type = types[tensor.dtype];
    let values = data instanceof Type ? data : Type.from(data);
    if (values.byteLength % 4 !== 0) {
      const padded = new Type(values.length + 1);
      padded.set(values);
      values = padded;
    }
    this.flush(); // what was recorded before must still see the old elements
    const storage = tensor.live();
    storage.version++;
    storage.written = 0;
    storage.failure = null;
    this.handle.queue.writeBuffer(this.bufferOf(tensor), 0, values as Float32Array<ArrayBuffer>);
  }

  async read(tensor: Tensor): Promise<HostData> {
    check(!this.#recorder, () => 'read: a program is being recorded; read its outputs after run()');
    this.#own('read', tensor);
    const source = this.bufferOf(tensor);
    const storage = tensor.live();
    const { bytes } = storage;
    const staging = this.#staging.acquire(bytes, 'read');
    this.#endPass();
    this.#commands().copyBufferToBuffer(source, 0, staging, 0, bytes);
    const [at, written, failed] = [this.#submission, storage.written, storage.failure];
    this.flush();
    try {
      await waitFor(staging.mapAsync(1, 0, bytes));
    } catch (error) {
      // The device may tell a moment later that it is lost.
      await new Promise((resolve) => setTimeout(resolve));
      staging.destroy();
      this.#throwFailure();
      throw error;
    }
    const copy = staging.getMappedRange(0, bytes).slice(0);
    staging.unmap();
    this.#staging.release(staging);
    this.#done = Math.max(this.#done, at);
    this.#throwFailure();
    const failure = failed ?? this.#lostAt(written) ?? this.#lostAt(at);
    if (failure) throw failure;
    if (tensor.dtype === 'f16') return new Uint16Array(copy, 0, tensor.size);
    const Type = { f32: Float32Array, u32: Uint32Array, i32: Int32Array }[tensor.dtype];
    return new Type(copy, 0, tensor.size);
  }

  /** Waits for all work and throws what failed since the last wait. */
  async sync(): Promise<void> {
    this.flush();
    const [at, since] = [this.#submission - 1, this.#done];
    await waitFor(this.handle.queue.onSubmittedWorkDone());
    this.#done = Math.max(this.#done, at);
    this.#throwFailure();
    const failure = at > since ? this.#lostAt(at) : undefined;
    if (failure) throw failure;
  }

  #lostAt(submission: number): Error | undefined {
    return this.#lost.find(({ from, to }) => from <= submission && submission <= to)?.error;
  }

  /** Says that commands made now read and write these; what is made of something lost is lost too. */
  touch(read: Iterable<Storage>, written: Iterable<Storage>): void {
    let failure: Error | null = null;
    if (this.#lost.length > 0) for (const s of read) failure ??= s.failure ?? this.#lostAt(s.written) ?? null;
    for (const storage of written) {
      storage.version++;
      storage.written = this.#submission;
      storage.failure = failure;
    }
  }

  #own(name: string, tensor: Tensor): void {
    if (tensor.device !== this)
      throw new CmapError(`${name}: tensor [${tensor.shape}] lives on another device`);
  }

  /** Throws what failed and forgets it, except that a lost device stays lost. */
  #throwFailure(): void {
    const failure = this.#failure;
    if (!failure) return;
    if (!(failure instanceof DeviceLostError)) this.#failure = null;
    throw failure;
  }

  // ---- lifetime

  /** Runs `f` and disposes every tensor made inside, except those in the returned value. */
  scope<T>(f: () => T): T {
    const made = new Set<Tensor>();
    this.#scopes.push(made);
    let result: T;
    try {
      result = f();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw new CmapError(
          'scope, record: the function is asynchronous, and what it makes later would be lost; wait outside',
        );
      }
    } catch (error) {
      this.#scopes.pop();
      for (const tensor of made) tensor.dispose();
      throw error;
    }
    this.#scopes.pop();
    const kept = new Set<Tensor>();
    collect(result, kept);
    for (const tensor of made) {
      if (!kept.has(tensor)) tensor.dispose();
      else this.#scopes.at(-1)?.add(tensor);
    }
    return result;
  }

  /** Runs `f` and says what tensors it made, which live on as if they had been made without it. */
  gather<T>(f: () => T): { readonly result: T; readonly made: ReadonlySet<Tensor> } {
    const made = new Set<Tensor>();
    this.#scopes.push(made);
    try {
      return { result: f(), made };
    } finally {
      this.#scopes.pop();
      for (const tensor of made) this.#scopes.at(-1)?.add(tensor);
    }
  }

  /** Excludes a tensor from all open scopes: it lives until `dispose()`. */
  keep<T extends Tensor>(tensor: T): T {
    for (const scope of this.#scopes) scope.delete(tensor);
    return tensor;
  }

  /** Registers a new tensor; used by Tensor. */
  adopt(tensor: Tensor): Tensor {
    this.#tensors++;
    this.#scopes.at(-1)?.add(tensor);
    return tensor;
  }

  /** Used by `Tensor.dispose`. */
  release(storage: Storage): void {
    this.#tensors--;
    this.drop(storage);
  }

  /** Gives up one reference to a storage. */
  drop(storage: Storage): void {
    if (--storage.references === 0 && storage.memory) {
      this.giveBack(storage.memory);
      storage.memory = null;
    }
  }

  /** Memory for a Program, which gives it back itself. */
  acquire(bytes: number, label: string, texels: boolean): Memory {
    return (texels ? this.#texels : this.#pool).acquire(bytes, label);
  }

  giveBack(memory: Memory): void {
    if (isBuffer(memory)) this.#pool.release(memory);
    else this.#texels.release(memory);
  }

  memory(): MemoryReport {
    return {
      liveBytes: this.#pool.liveBytes + this.#texels.liveBytes,
      freeBytes: this.#pool.freeBytes + this.#texels.freeBytes + this.#staging.freeBytes,
      peakBytes: this.#pool.peakBytes + this.#texels.peakBytes,
      tensors: this.#tensors,
      buffersCreated: this.#pool.created + this.#texels.created + this.#staging.created,
    };
  }

  /** Gives pooled memory back to the driver. */
  trim(): void {
    this.flush();
    this.#pool.trim();
    this.#texels.trim();
    this.#staging.trim();
  }

  // ---- commands

  /**
   * Runs a kernel, or adds it to the program being recorded.
   * @param tensors by the names of the kernel's storage variables
   * @param params by the names of the fields of its `params` struct
   * @param grid workgroups in x, y, z
   */
  run(
    k: Kernel,
    tensors: Readonly<Record<string, Tensor>>,
    params: ParamValues,
    grid: Grid,
    work: Work = {},
  ): void {
    for (const n of grid) {
      check(
        n >= 1 && n <= this.capabilities.maxGrid,
        () => `${k.name}: grid [${grid}] is outside 1..${this.capabilities.maxGrid}`,
      );
    }
    const storages = k.bindings.map(({ name, texels, floats }) => {
      const tensor = tensors[name];
      if (!tensor) throw new CmapError(`${k.name}: no tensor given for ${name}`);
      if (tensor.device !== this) throw new CmapError(`${k.name}: ${name} lives on another device`);
      if (floats && tensor.dtype !== 'f32')
        throw new CmapError(`${k.name}: ${name} is ${tensor.dtype}, the kernel has it as f32`);
      const storage = tensor.live();
      if (storage.texels !== texels)
        throw new CmapError(`${k.name}: ${name} is ${storage.texels ? '' : 'not '}in texels`);
      return storage;
    });
    const written = storages.filter((storage, i) => {
      const { name, writable } = k.bindings[i] as Binding;
      if (writable && storages.indexOf(storage) !== storages.lastIndexOf(storage))
        throw new CmapError(`${k.name}: ${name} is written and shares memory with another argument`);
      return writable;
    });
    if (this.#recorder) {
      for (const storage of written) storage.version++;
      this.#recorder.push({ kernel: k, storages, params, grid, flops: work.flops ?? 0 });
      return;
    }
    if (this.#slot === SLOTS) this.flush();
    const offset = this.#slot * SLOT;
    packParams(k, params, this.#slotBytes, offset);
    if (k.paramsIndex >= 0) this.#slot++;
    const { pipeline, layout } = this.pipelines.get(k);
    const bindGroup = this.bindGroup(k, layout, storages, this.#slots, offset);
    this.touch(storages, written);
    this.dispatch(k, pipeline, bindGroup, grid, work.flops ?? 0);
  }

  /** As `run`, for tensors in buffers: what the kernel reads from texels is copied there first, and the copies given back. */
  runOnTexels(
    k: Kernel,
    tensors: Readonly<Record<string, Tensor>>,
    params: ParamValues,
    grid: Grid,
    work: Work = {},
  ): void {
    this.scope(() => {
      const copies = k.bindings.flatMap(({ name, texels }) => {
        const tensor = tensors[name];
        return texels && tensor ? [[name, this.texelsOf(tensor)] as const] : [];
      });
      this.run(k, { ...tensors, ...Object.fromEntries(copies) }, params, grid, work);
    });
  }

  /** Adds one dispatch to the current commands. */
  dispatch(
    k: Kernel,
    pipeline: GPUComputePipeline,
    bindGroup: GPUBindGroup,
    grid: Grid,
    flops: number,
  ): void {
    const profiler = this.#profiler;
    if (profiler) {
      this.#endPass();
      if (profiler.full) this.flush();
      this.#pass = this.#commands().beginComputePass({ timestampWrites: profiler.next(k.name, grid, flops) });
    }
    this.#pass ??= this.#commands().beginComputePass();
    this.#pass.setPipeline(pipeline);
    this.#pass.setBindGroup(0, bindGroup);
    this.#pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    if (profiler) this.#endPass();
    this.#submissionFlops += flops;
    if (this.#submissionFlops > SUBMISSION_FLOPS) this.flush();
  }

  bindGroup(
    k: Kernel,
    layout: GPUBindGroupLayout,
    storages: readonly Storage[],
    uniform: GPUBuffer,
    offset: number,
  ): GPUBindGroup {
    const entries: GPUBindGroupEntry[] = k.bindings.map((b, i) => {
      const storage = storages[i] as Storage;
      const memory = backed(storage);
      const resource = isBuffer(memory) ? { buffer: memory, size: storage.bytes } : memory.createView();
      return { binding: b.index, resource };
    });
    if (k.paramsIndex >= 0) {
      entries.push({ binding: k.paramsIndex, resource: { buffer: uniform, offset, size: k.paramsSize } });
    }
    return this.handle.createBindGroup({ layout, entries });
  }

  bufferOf(tensor: Tensor): GPUBuffer {
    const memory = backed(tensor.live());
    if (isBuffer(memory)) return memory;
    throw new CmapError(`tensor [${tensor.shape}] is in texels, which only kernels reach`);
  }

  /** Submits what was recorded so far. */
  flush(): void {
    this.#endPass();
    const encoder = this.#encoder;
    if (!encoder) return;
    this.#encoder = null;
    if (this.#slot > 0) {
      this.handle.queue.writeBuffer(
        this.#slots,
        0,
        this.#slotBytes.buffer as ArrayBuffer,
        0,
        this.#slot * SLOT,
      );
      this.#slot = 0;
    }
    this.#submissionFlops = 0;
    const collectTimes = this.#profiler?.resolve(encoder);
    this.handle.queue.submit([encoder.finish()]);
    this.#submission++;
    collectTimes?.();
  }

  #commands(): GPUCommandEncoder {
    this.#encoder ??= this.handle.createCommandEncoder();
    return this.#encoder;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = null;
  }

  // ---- programs and profiling

  /** True while `record` runs its function. */
  get recording(): boolean {
    return this.#recorder !== null;
  }

  /**
   * Records what `f` does, without doing it, into a Program. Tensors made before are its inputs (write to them
   * between runs); the tensors `f` returns are its outputs.
   */
  record<T>(name: string, f: () => T): Program<T> {
    check(!this.#recorder, () => `record ${name}: a program is already being recorded`);
    this.flush();
    const recorder = new Recorder();
    this.#recorder = recorder;
    try {
      const { result: outputs, made } = this.gather(() => this.scope(f));
      this.#recorder = null;
      const tensors = new Set<Tensor>();
      collect(outputs, tensors);
      // Outputs over memory from outside are the program's own, too, unless they were there before it.
      const own = [...tensors].filter((t) => made.has(t) || recorder.virtual.has(t.storage));
      return new Program(this, name, recorder, outputs, own);
    } catch (error) {
      for (const storage of recorder.owned) this.drop(storage);
      throw error;
    } finally {
      this.#recorder = null;
    }
  }

  /** Says what was recorded since the last name; used by differentiation. */
  named(operation: string): void {
    this.#recorder?.name(operation);
  }

  /** What `record` of the same function would need, without taking the memory. */
  cost(f: () => unknown): ProgramCost {
    check(!this.#recorder, () => 'cost: a program is already being recorded');
    this.flush();
    const recorder = new Recorder();
    this.#recorder = recorder;
    try {
      const tensors = new Set<Tensor>();
      this.scope(() => {
        collect(f(), tensors);
      });
      return costOf(recorder, [...tensors]);
    } finally {
      this.#recorder = null;
      for (const storage of recorder.owned) this.drop(storage);
    }
  }

  /** Times every dispatch of `f`; needs the timestamp-query feature. */
  async profile(f: () => void | Promise<void>): Promise<Profiler> {
    check(this.capabilities.timestamps, () => `profile: ${this.adapter.name} has no timestamp queries`);
    this.flush();
    const profiler = new Profiler(this.handle);
    this.#profiler = profiler;
    try {
      await f();
      this.flush();
    } finally {
      this.#profiler = null;
    }
    try {
      await profiler.times();
    } catch (error) {
      this.#throwFailure();
      throw error;
    }
    return profiler;
  }
}

function backed(storage: Storage): Memory {
  if (!storage.memory) {
    throw new CmapError(
      'a tensor made while a program was recorded has no memory outside it; return it from the program',
    );
  }
  return storage.memory;
}

/** How much an error explains: the loss of the device everything, a typed error more than the driver's own words. */
function weight(error: Error): number {
  if (error instanceof DeviceLostError) return 2;
  return error.constructor === CmapError ? 0 : 1;
}

/** All tensors in a value made of arrays and plain objects. */
function collect(value: unknown, into: Set<Tensor>): void {
  if (value instanceof Tensor) into.add(value);
  else if (Array.isArray(value) || value instanceof Set) for (const v of value) collect(v, into);
  else if (value instanceof Map) for (const v of value.values()) collect(v, into);
  else if (value && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const v of Object.values(value)) collect(v, into);
  }
}
