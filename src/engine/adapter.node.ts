/**
 * Adapters in Node: Dawn through the npm package `webgpu`, over the Vulkan driver that the loader finds.
 *
 * Three rules shape this file.
 * - A `gpu` object that is collected while its device lives crashes the process, so all are kept for good.
 * - The loader reads VK_DRIVER_FILES when Dawn makes its Vulkan instance, which is inside the first
 *   `requestAdapter` of a `gpu` and before that call returns. So each driver has its own `gpu`, and the variable
 *   is set for that one call only.
 * - A broken driver may take the process with it. Drivers of the system are therefore rehearsed once in a child
 *   process with a tiny kernel; a success is remembered in the cache until the drivers change.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants, homedir, hostname } from 'node:os';
import { delimiter, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  type AdapterRecord,
  type Description,
  describe,
  type ListedAdapter,
  mesaVersion,
  type OpenedAdapter,
  type OpenOptions,
  type Precision,
  type Profile,
} from './adapter.ts';
import { AdapterError } from './errors.ts';
import { cacheFolder, swiftShader } from './swiftshader.ts';

/** A way to reach an adapter. */
interface Driver {
  /** For messages. */
  readonly label: string;
  readonly source: 'system' | 'bundled' | 'null';
  /** Flags for Dawn's create(), besides the toggles. */
  readonly flags: readonly string[];
  /** VK_DRIVER_FILES for it; by default the user's own, or the loader's search. */
  readonly manifests?: string;
  /** What its adapter's description must hold: the loader may have been led elsewhere. */
  readonly expects?: RegExp;
  /** Why it cannot be tried at all. */
  readonly missing?: string;
}

/** The least Mesa whose llvmpipe is taken unasked: 22.3 gives no adapter, 25.0.7 is tested. */
const leastMesa = 25;
const rehearsalMs = 60_000;
const bundledName = 'SwiftShader (bundled)';
const wayOut = 'CMAP_ADAPTER=swiftshader uses the bundled software driver';

export async function openNode(options: OpenOptions): Promise<OpenedAdapter> {
  const wanted = (options.adapter ?? process.env.CMAP_ADAPTER ?? '').trim();
  const auto = wanted === '' || wanted.toLowerCase() === 'auto';
  // A misspelt setting is no adapter's fault.
  profileOf(options);
  precisionOf(options);
  const refused: string[] = [];
  const asked =
    options.adapter === undefined ? `CMAP_ADAPTER=${wanted} asks for it.` : `'${wanted}' was asked for.`;

  // Functions, so that SwiftShader is unpacked only where it is needed.
  const drivers = auto ? [system, lavapipe, bundled] : [() => driverCalled(wanted, options)];
  for (const make of drivers) {
    const driver = await make();
    try {
      const names = await rehearse(driver, options);
      const { gpu, adapter } = await request(driver, options);
      const found = describe(adapter);
      if (driver.expects && !driver.expects.test(found.description))
        throw new AdapterError(
          `the loader gave '${found.description}'; a worker thread needs { env: SHARE_ENV }`,
        );
      if (auto) refuseOldMesa(found);
      if (wanted.toLowerCase() === 'hardware' && found.fallback)
        throw new AdapterError(`no GPU, only the software driver '${found.description}'`);
      const why = !auto
        ? asked
        : !found.fallback
          ? 'It is the GPU of this system.'
          : driver.source === 'system'
            ? refused.length === 0
              ? 'There is no GPU; this is the software driver of this system.'
              : `It is the software driver of this system, loaded alone (${refused.join('; ')}).`
            : `No driver of this system is usable (${refused.join('; ')}).`;
      return { gpu, adapter, info: recordOf(found, driver, options, names, why) };
    } catch (error) {
      if (!(error instanceof AdapterError)) throw error;
      refused.push(`${driver.label}: ${error.message}`);
    }
  }
  const asks = auto ? 'no adapter is usable' : `adapter '${wanted}' is not usable`;
  const hint =
    wanted.toLowerCase() === 'swiftshader' ? 'the system may have another: leave CMAP_ADAPTER empty' : wayOut;
  throw new AdapterError(`${asks}: ${refused.join('; ')} (${hint}; see cmap doctor)`);
}

export async function listNode(options: OpenOptions): Promise<ListedAdapter[]> {
  profileOf(options);
  precisionOf(options);
  const list: ListedAdapter[] = [];
  const tryOut = async (driver: Driver, name: string) => {
    try {
      if (driver.missing) throw new AdapterError(driver.missing);
      const reply = await runRehearsal(driver, options);
      if (!reply.found) throw new AdapterError(reply.problem);
      const why = reply.found.fallback ? 'A software driver; it works.' : 'A GPU; it works.';
      const record = recordOf(reply.found, driver, options, reply.names, why);
      try {
        refuseOldMesa(reply.found);
      } catch (error) {
        list.push({ name: record.name, usable: false, why: (error as Error).message, record });
        return;
      }
      list.push({ name: record.name, usable: true, why, record });
    } catch (error) {
      list.push({ name, usable: false, why: (error as Error).message, record: null });
    }
  };
  const all = system();
  const names = await systemNames(options).catch(() => []);
  for (const name of names) await tryOut({ ...all, flags: [`adapter=${name}`] }, name);
  if (names.length === 0) {
    await tryOut(all, all.label);
    // Whatever stops the others, Mesa's software driver may still work alone.
    if (!lavapipe().missing) await tryOut(lavapipe(), lavapipe().label);
  }
  await tryOut(bundled(), bundledName);
  // Best first: GPUs, then the system's software, then ours.
  const rank = ({ record }: ListedAdapter) =>
    record?.kind === 'hardware' ? 0 : record?.source === 'bundled' ? 2 : 1;
  return list.sort((a, b) => rank(a) - rank(b));
}

/** The one driver of a manifest, which compiles and does not compute, so that no rehearsal could pass. */
export async function openCompiler(manifest: string): Promise<OpenedAdapter> {
  const driver: Driver = { label: manifest, source: 'null', flags: [], manifests: manifest };
  preload(loader());
  const { gpu, adapter } = await request(driver, {});
  const found = describe(adapter);
  return { gpu, adapter, info: recordOf(found, driver, {}, [found.device], 'It compiles.') };
}

// ---- the drivers

function system(): Driver {
  const driver: Driver = { label: 'system drivers', source: 'system', flags: [] };
  if (process.platform !== 'linux') return driver;
  const own = process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES || process.env.VK_ADD_DRIVER_FILES;
  if (!own && manifestFiles().length === 0) return { ...driver, missing: 'no Vulkan driver is installed' };
  return driver;
}

/** Mesa's software driver with no other loaded beside it, so that a broken GPU driver does no harm. */
function lavapipe(): Driver {
  const manifests = manifestFiles().filter((file) => /\/lvp_icd[^/]*\.json$/.test(file));
  const driver: Driver = {
    label: 'lavapipe',
    source: 'system',
    flags: [],
    manifests: manifests.join(':'),
    expects: /llvmpipe/,
  };
  return manifests.length > 0 ? driver : { ...driver, missing: 'mesa-vulkan-drivers is not installed' };
}

function bundled(): Driver {
  const driver: Driver = {
    label: 'bundled SwiftShader',
    source: 'bundled',
    flags: [],
    expects: /SwiftShader/,
  };
  try {
    return { ...driver, manifests: swiftShader().manifest };
  } catch (error) {
    if (!(error instanceof AdapterError)) throw error;
    return { ...driver, missing: error.message };
  }
}

async function driverCalled(wanted: string, options: OpenOptions): Promise<Driver> {
  const key = wanted.toLowerCase();
  if (key === 'null') return { label: 'null', source: 'null', flags: ['backend=null'] };
  if (key === 'hardware') return system();
  if (/^(lavapipe|llvmpipe)\b/.test(key)) {
    const mesa = lavapipe();
    return mesa.missing ? { ...system(), label: 'lavapipe', flags: ['adapter=llvmpipe'] } : mesa;
  }
  if (key === 'swiftshader' || key === bundledName.toLowerCase()) return bundled();
  let names: string[] = [];
  let problem = '';
  try {
    names = await systemNames(options);
  } catch (error) {
    problem = `; system drivers: ${(error as Error).message}`;
  }
  const name = names.find((n) => n.toLowerCase().includes(key));
  if (name) return { ...system(), label: name, flags: [`adapter=${name}`] };
  const there = [...names.map((n) => `'${n}'`), 'hardware', 'lavapipe', 'swiftshader'].join(', ');
  throw new AdapterError(
    `adapter '${wanted}' is none of ${there}${problem} (leave CMAP_ADAPTER empty for the best; see cmap doctor)`,
  );
}

/** Where Vulkan loaders look for drivers. */
function manifestFiles(): string[] {
  const env = (name: string, fallback: string) => (process.env[name] || fallback).split(delimiter);
  const home = homedir();
  const roots = [
    ...env('XDG_CONFIG_HOME', join(home, '.config')),
    ...env('XDG_CONFIG_DIRS', '/etc/xdg'),
    '/etc',
    '/usr/local/etc',
    ...env('XDG_DATA_HOME', join(home, '.local/share')),
    ...env('XDG_DATA_DIRS', '/usr/local/share:/usr/share'),
    '/usr/local/share',
    '/usr/share',
  ];
  const files = roots.flatMap((root) =>
    listing(join(root, 'vulkan/icd.d')).map((name) => join(root, 'vulkan/icd.d', name)),
  );
  return [...new Set(files)].filter((file) => file.endsWith('.json'));
}

function listing(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

// ---- opening, in this process

/** All `gpu` objects, by what they were made of; on globalThis, where two copies of this module share it. */
function registry(): Map<string, GPU> {
  const shelf = globalThis as { [key: symbol]: Map<string, GPU> | undefined };
  const key = Symbol.for('cmap.gpu');
  shelf[key] ??= new Map();
  return shelf[key];
}

async function request(driver: Driver, options: OpenOptions): Promise<{ gpu: GPU; adapter: GPUAdapter }> {
  if (driver.missing) throw new AdapterError(driver.missing);
  if (driver.source !== 'null') preload(loader());
  const { create, globals } = await importDawn();
  for (const [name, value] of Object.entries(globals))
    (globalThis as Record<string, unknown>)[name] ??= value;
  const flags = [...driver.flags, ...toggleFlags(options)];
  const key = JSON.stringify([flags, driver.manifests ?? null]);
  const gpu = registry().get(key) ?? create(flags);
  registry().set(key, gpu);
  let pending: Promise<GPUAdapter | null>;
  const restore = setDrivers(process.env, driver.manifests);
  try {
    pending = gpu.requestAdapter({ powerPreference: 'high-performance' });
  } finally {
    restore();
  }
  let adapter: GPUAdapter | null;
  try {
    adapter = await pending;
  } catch (error) {
    throw new AdapterError(oneLine(error));
  }
  if (!adapter) throw new AdapterError('no adapter');
  return { gpu, adapter };
}

async function importDawn(): Promise<typeof import('webgpu')> {
  try {
    return await import('webgpu');
  } catch (error) {
    throw new AdapterError(
      `the npm package webgpu has no working build for ${process.platform} ${process.arch} (on Linux it needs glibc 2.34): ${oneLine(error)}`,
    );
  }
}

/** The system's Vulkan loader, else the one that comes with SwiftShader; '' on systems that need none. */
function loader(): string {
  if (process.platform !== 'linux' || preload('libvulkan.so.1')) return '';
  try {
    return swiftShader().loader; // it finds the system's drivers as well
  } catch (error) {
    throw new AdapterError(`no Vulkan loader (install libvulkan1), and ${(error as Error).message}`);
  }
}

/**
 * Loads a shared library so that Dawn's own dlopen by name finds it. It is no addon, so Node complains once it is
 * loaded and closes it again; RTLD_NODELETE (0x1000) keeps it.
 */
function preload(library: string): boolean {
  if (!library) return true;
  try {
    process.dlopen(
      { exports: {} },
      library,
      constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | 0x1000,
    );
    return true;
  } catch (error) {
    return /did not self-register/.test(String(error));
  }
}

/** Both spellings: loaders before 1.3.207 know only VK_ICD_FILENAMES. Gives the way back. */
function setDrivers(env: NodeJS.ProcessEnv, manifests: string | undefined): () => void {
  if (manifests === undefined) return () => {};
  const names = ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES'];
  const before = names.map((name) => env[name]);
  for (const name of names) env[name] = manifests;
  return () => {
    names.forEach((name, i) => {
      if (before[i] === undefined) delete env[name];
      else env[name] = before[i];
    });
  };
}

/** The option, else the environment variable CMAP_NAME, else the first of `known`. @throws AdapterError for others */
function settingOf<T extends string>(
  name: 'profile' | 'precision',
  options: OpenOptions,
  known: readonly T[],
): T {
  const variable = `CMAP_${name.toUpperCase()}`;
  const wanted = (options[name] ?? process.env[variable] ?? '').trim() || known[0];
  const found = known.find((value) => value === wanted);
  if (found) return found;
  throw new AdapterError(
    `${name} '${wanted}' is none of ${known.join(', ')} (${variable} empty takes ${known[0]})`,
  );
}

const profileOf = (options: OpenOptions) => settingOf<Profile>('profile', options, ['fast', 'safe']);
const precisionOf = (options: OpenOptions) => settingOf<Precision>('precision', options, ['f32', 'f16']);

function togglesOf(options: OpenOptions) {
  const fast = ['disable_robustness', 'disable_workgroup_init', 'disable_polyfills_on_integer_div_and_mod'];
  return {
    // subgroup matrices are still "unsafe"; f16 is off on NVIDIA unless asked for here, at the adapter
    enabled: [
      'allow_unsafe_apis',
      'vulkan_enable_f16_on_nvidia',
      ...(profileOf(options) === 'fast' ? fast : []),
    ],
    disabled: ['timestamp_quantization'],
  };
}

function toggleFlags(options: OpenOptions): string[] {
  const { enabled, disabled } = togglesOf(options);
  return [`enable-dawn-features=${enabled.join(',')}`, `disable-dawn-features=${disabled.join(',')}`];
}

// ---- what was found

function recordOf(
  found: Description,
  driver: Driver,
  options: OpenOptions,
  names: readonly string[],
  reason: string,
): AdapterRecord {
  const { fallback, ...rest } = found;
  return {
    ...rest,
    name: nameOf(found, driver, names),
    kind: driver.source === 'null' ? 'null' : fallback ? 'software' : 'hardware',
    source: driver.source,
    driver: mesaVersion(found.description) ? `Mesa ${mesaVersion(found.description)}` : found.description,
    reason,
    profile: profileOf(options),
    precision: precisionOf(options),
    toggles: togglesOf(options),
  };
}

function nameOf(found: Description, driver: Driver, names: readonly string[]): string {
  if (driver.source === 'null') return 'null';
  if (driver.source === 'bundled') return bundledName;
  const mesa = mesaVersion(found.description);
  if (found.fallback && mesa && /llvmpipe/.test(found.description)) return `llvmpipe ${mesa}`;
  // Dawn gives 'nvidia-h100-80gb-hbm3'; the list of names has it as the driver writes it.
  const plain = (s: string) => s.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  return (
    names.find((name) => plain(name) === found.device) ?? (found.device || found.description || found.vendor)
  );
}

function refuseOldMesa(found: Description): void {
  const mesa = mesaVersion(found.description);
  if (found.fallback && mesa && parseInt(mesa, 10) < leastMesa)
    throw new AdapterError(
      `llvmpipe of Mesa ${mesa} is untested, ${leastMesa} is the least (CMAP_ADAPTER=lavapipe takes it anyway)`,
    );
}

// ---- rehearsal, in a child process

interface Job {
  readonly dawn: string;
  readonly loader: string;
  readonly flags: readonly string[];
  /** Only the names of the adapters, no device. */
  readonly list: boolean;
}

interface Reply {
  /** Names of the adapters as their drivers write them. */
  readonly names: string[];
  readonly found: Description | null;
  /** Why `found` is null. */
  readonly problem: string;
}

/**
 * Opens the system's driver in a child first, unless that went well before, and gives the adapters' names.
 * Only successes are remembered: a driver that has been mended needs no cache to be cleared.
 */
async function rehearse(driver: Driver, options: OpenOptions): Promise<readonly string[]> {
  if (driver.missing) throw new AdapterError(driver.missing);
  if (driver.source !== 'system') return []; // ours, known to work
  const memo = memoFile(driver, options);
  try {
    return JSON.parse(readFileSync(memo, 'utf8'));
  } catch {
    // never tried, or drivers changed
  }
  const { found, names, problem } = await runRehearsal(driver, options);
  if (!found) throw new AdapterError(problem);
  try {
    mkdirSync(join(memo, '..'), { recursive: true });
    writeFileSync(memo, JSON.stringify(names));
  } catch {
    // no cache: it is rehearsed again next time
  }
  return names;
}

/** A file named after all that decides which drivers are loaded and whether they find a GPU. */
function memoFile(driver: Driver, options: OpenOptions): string {
  const files = manifestFiles().map((file) => {
    const { mtimeMs, size } = statSync(file, { throwIfNoEntry: false }) ?? {};
    return [file, mtimeMs, size];
  });
  const nodes = [...listing('/dev').filter((name) => /^(nvidia|kfd|dxg)/.test(name)), ...listing('/dev/dri')];
  const env = Object.entries(process.env)
    .filter(([name]) => /^(VK_|LD_LIBRARY_PATH$|MESA_|LP_|DAWN)/.test(name))
    .sort();
  const parts = [
    dawnEntry(),
    process.version,
    hostname(),
    driver.manifests,
    driver.flags,
    toggleFlags(options),
    files,
    nodes,
    env,
  ];
  const hash = createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 20);
  return join(cacheFolder(), 'drivers', `${hash}.json`);
}

function dawnEntry(): string {
  return createRequire(import.meta.url).resolve('webgpu');
}

async function systemNames(options: OpenOptions): Promise<string[]> {
  const driver = system();
  if (driver.missing) throw new AdapterError(driver.missing);
  return (await runRehearsal(driver, options, true)).names;
}

async function runRehearsal(driver: Driver, options: OpenOptions, list = false): Promise<Reply> {
  const job: Job = {
    dawn: pathToFileURL(dawnEntry()).href,
    loader: loader(),
    flags: [...driver.flags, ...toggleFlags(options)],
    list,
  };
  const env = { ...process.env, NODE_OPTIONS: '' };
  setDrivers(env, driver.manifests);
  return runChild(`(${perform})(${JSON.stringify(job)}, ${describe})`, env);
}

/** Runs a script that prints a Reply as its last line. A child that dies or hangs is a Reply too. */
export function runChild(script: string, env: NodeJS.ProcessEnv, timeout = rehearsalMs): Promise<Reply> {
  const options = { env, timeout, killSignal: 'SIGKILL' as const, maxBuffer: 1 << 24 };
  return new Promise((resolve) => {
    execFile(process.execPath, ['--input-type=module', '-e', script], options, (error, stdout, stderr) => {
      const failed = (problem: string) => resolve({ names: [], found: null, problem });
      const line = stdout.trimEnd().split('\n').at(-1) ?? '';
      if (line.startsWith('{"names":')) return resolve(JSON.parse(line));
      const said = stderr.trim().split('\n').at(-1) ?? '';
      if (error?.killed) return failed(`the driver hung for ${timeout / 1000} s in a trial run`);
      if (error?.signal)
        return failed(`the driver crashed in a trial run (${error.signal})${said ? `: ${said}` : ''}`);
      failed(`the trial run failed: ${said || error?.message || 'no answer'}`);
    });
  });
}

/**
 * The child's part. It is sent as text, so it refers to nothing outside itself: opens the adapter, squares 64
 * numbers on it and prints a Reply.
 */
async function perform(job: Job, tell: typeof describe): Promise<void> {
  const reply = (names: string[], found: Description | null, problem = '') => {
    process.stdout.write(`\n${JSON.stringify({ names, found, problem })}\n`, () => process.exit(0));
  };
  let names: string[] = [];
  try {
    if (job.loader) {
      try {
        process.dlopen({ exports: {} }, job.loader, 0x1102);
      } catch {
        // no addon, but loaded
      }
    }
    const { create } = (await import(job.dawn)) as typeof import('webgpu');
    // Dawn names its adapters when it is asked for one that cannot be.
    const all = create(['adapter=\u0001', ...job.flags.filter((flag) => !flag.startsWith('adapter='))]);
    try {
      await all.requestAdapter();
    } catch (error) {
      names = [...String(error).matchAll(/name: '(.*)'$/gm)].map((match) => match[1] as string);
    }
    if (job.list) return reply(names, null);
    const gpu = create([...job.flags]);
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) return reply(names, null, 'no adapter');
    const found = tell(adapter);
    const device = await adapter.requestDevice();
    const code = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] = x[id.x] * x[id.x]; }`;
    const buffer = device.createBuffer({ size: 256, usage: 0x80 | 0x8 | 0x4 }); // STORAGE | COPY_DST | COPY_SRC
    const back = device.createBuffer({ size: 256, usage: 0x1 | 0x8 }); // MAP_READ | COPY_DST
    device.queue.writeBuffer(
      buffer,
      0,
      Float32Array.from({ length: 64 }, (_, i) => i),
    );
    const pipeline = device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
    });
    const bindGroup = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer } }],
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(buffer, 0, back, 0, 256);
    device.queue.submit([encoder.finish()]);
    await back.mapAsync(1);
    const wrong = new Float32Array(back.getMappedRange()).findIndex((value, i) => value !== i * i);
    if (wrong >= 0) return reply(names, null, 'the driver computed a wrong result in a trial run');
    (globalThis as Record<string, unknown>).keep = [all, gpu, device];
    reply(names, found);
  } catch (error) {
    reply(names, null, String(error).split('\n')[0]);
  }
}

function oneLine(error: unknown): string {
  return String((error as Error)?.message ?? error).split('\n')[0] as string;
}
