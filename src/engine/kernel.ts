/**
 * A kernel is handwritten WGSL plus constants. The constants are put before the source as `const NAME = value;`,
 * so a .wgsl file stays plain WGSL that names in its header the constants it expects, and the driver unrolls and
 * folds them. Everything else about a kernel, its bindings and the layout of its `params` struct, is read off
 * the source by reflection: it is stated once.
 *
 * Conventions of a .wgsl file: entry point `main`; storage buffers, texels and at most one `var<uniform> params: Params`
 * in group 0; the header says what is computed, the shapes, the grid, and which constants are expected.
 */
import { type MemberInfo, type StructInfo, WgslReflect } from 'wgsl_reflect';
import { CmapError, KernelError } from './errors.ts';

export interface Binding {
  readonly name: string;
  readonly index: number;
  readonly writable: boolean;
  /** Whether it is read from texels, not from a buffer. */
  readonly texels: boolean;
  /** An array of f32 or of vectors of them. One of u32 may be the bits of anything. */
  readonly floats: boolean;
}

export interface ParamField {
  readonly name: string;
  readonly type: 'u32' | 'i32' | 'f32';
  readonly offset: number;
  /** 1 for a scalar, 2..4 for a vector. */
  readonly length: number;
}

export interface Kernel {
  readonly name: string;
  readonly code: string;
  readonly bindings: readonly Binding[];
  readonly params: readonly ParamField[];
  /** Binding index of the uniform, or -1. */
  readonly paramsIndex: number;
  /** Bytes of the uniform, a multiple of 16; 0 without one. */
  readonly paramsSize: number;
}

export type Constants = Readonly<Record<string, number | boolean | string>>;
export type ParamValues = Readonly<Record<string, number | readonly number[]>>;

const cache = new Map<string, { kernel: Kernel; source: string }>();

/**
 * The kernel `source` with `constants`; the same object for the same arguments.
 * @param constants numbers (abstract: they fit u32, i32 and f32), booleans, or WGSL text such as a type's name
 */
export function kernel(name: string, source: string, constants: Constants = {}): Kernel {
  const key = nameOf(name, constants);
  const known = cache.get(key);
  if (known) {
    if (known.source !== source) throw new CmapError(`kernel ${key}: two different sources have this name`);
    return known.kernel;
  }
  const made = assemble(name, source, constants);
  cache.set(key, { kernel: made, source });
  return made;
}

/** Every kernel made so far, for tests that compile all of them. */
export function knownKernels(): readonly Kernel[] {
  return [...cache.values()].map((entry) => entry.kernel);
}

/** `conv2d[CIN=3 COUT=8]`. */
function nameOf(name: string, constants: Constants): string {
  const suffix = Object.entries(constants).map(([key, value]) => `${key}=${value}`);
  return suffix.length > 0 ? `${name}[${suffix.join(' ')}]` : name;
}

/** As `kernel`, but not remembered. @throws KernelError for text that is not WGSL */
export function assemble(shortName: string, source: string, constants: Constants = {}): Kernel {
  const name = nameOf(shortName, constants);
  // Directives must stand before every declaration.
  const directives: string[] = [];
  const body = source.replace(/^\s*(?:enable|requires|diagnostic)\b[^;]*;/gm, (line) => {
    directives.push(line.trim());
    return '';
  });
  const header = Object.entries(constants).map(([key, value]) =>
    typeof value === 'string' ? `alias ${key} = ${value};` : `const ${key} = ${value};`,
  );
  const code = [...directives, ...header, body].join('\n');

  let reflection: WgslReflect;
  try {
    reflection = new WgslReflect(withoutMatrices(code));
  } catch (error) {
    throw new KernelError(
      `kernel ${name}: the source was not understood: ${(error as Error).message.split('\n')[0]}`,
      numbered(code),
    );
  }
  const bindings = reflection.storage
    .map((v) => ({
      name: v.name,
      index: v.binding,
      writable: v.access === 'read_write',
      texels: v.type.name.startsWith('texture'),
      floats: /^array<(?:f32|vec[234]f)\b/.test(v.type.getTypeName()),
    }))
    .sort((a, b) => a.index - b.index);
  const uniform = reflection.uniforms[0];
  const struct = uniform?.type as StructInfo | undefined;
  // Of anything else nothing would be written, and the kernel read what lay there.
  if (uniform && !struct?.members)
    throw new KernelError(
      `kernel ${name}: the uniform ${uniform.name} is no struct; put its values into a struct Params`,
      numbered(code),
    );
  return {
    name,
    code,
    bindings,
    params: struct?.members ? struct.members.map(field) : [],
    paramsIndex: uniform ? uniform.binding : -1,
    paramsSize: struct ? Math.ceil(struct.size / 16) * 16 : 0,
  };
}

/** The reflection does not know subgroup matrices, and need not: they are no bindings. */
function withoutMatrices(code: string): string {
  return code
    .replace(/^alias \w+ = subgroup_matrix_.*$/gm, '')
    .replace(/\b(subgroupMatrix\w+)<[^<>]*>/g, '$1');
}

function field(member: MemberInfo): ParamField {
  const text = member.type.getTypeName();
  const match = /^(?:vec([234])<?)?(u32|i32|f32|[uif])>?$/.exec(text);
  if (!match)
    throw new CmapError(
      `kernel params: ${member.name}: type ${text} is not a scalar or vector of u32, i32, f32`,
    );
  const short = match[2] as string;
  const type = (short.length === 1 ? `${short}32` : short) as ParamField['type'];
  return { name: member.name, type, offset: member.offset, length: match[1] ? Number(match[1]) : 1 };
}

/** Writes `values` into `target` at byte `offset` as the kernel's params struct lays them out. */
export function packParams(k: Kernel, values: ParamValues, target: DataView, offset: number): void {
  let used = 0;
  for (const { name, type, offset: at, length } of k.params) {
    const value = values[name];
    if (value === undefined) throw new CmapError(`${k.name}: params.${name} is missing`);
    used++;
    const numbers = typeof value === 'number' ? [value] : value;
    if (numbers.length !== length) {
      throw new CmapError(`${k.name}: params.${name} wants ${length} numbers, got ${JSON.stringify(value)}`);
    }
    for (let i = 0; i < length; i++) {
      const x = numbers[i] as number;
      const where = offset + at + 4 * i;
      if (type === 'f32') target.setFloat32(where, x, true);
      else if (type === 'u32') target.setUint32(where, x, true);
      else target.setInt32(where, x, true);
    }
  }
  const given = Object.keys(values);
  if (given.length !== used) {
    const unknown = given.filter((name) => !k.params.some((p) => p.name === name));
    throw new CmapError(`${k.name}: params has no field ${unknown.join(', ')}`);
  }
}

/** The source with line numbers, for error messages. */
export function numbered(code: string): string {
  return code
    .split('\n')
    .map((line, i) => `${String(i + 1).padStart(4)} | ${line}`)
    .join('\n');
}

/**
 * The grid for one invocation an element, folded into two dimensions beyond the limit of 65,535 workgroups.
 * Kernels recover the index as `id.x + id.y * (groups.x * WORKGROUP)`.
 */
export function linearGrid(invocations: number, workgroup = 64): [number, number, number] {
  const groups = Math.max(1, Math.ceil(invocations / workgroup));
  if (groups <= 65535) return [groups, 1, 1];
  const rows = Math.ceil(groups / 65535);
  return [Math.ceil(groups / rows), rows, 1];
}
