// y[i] = a sum of CHAINS independent chains of multiply-adds: what the adapter computes when it need not load.
// The factors come from memory so that nothing can be folded, and keep every chain below 2.
// Constants: T (f32 or vec4<f32>), CHAINS; appended: `fn chains(v: T, m: T, a: T, rounds: u32) -> T`.
// Grid: one invocation an element of y; workgroups of 64. Operations: 2 * CHAINS * 8 * rounds * (1 or 4) an element.
struct Params { count: u32, rounds: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<T>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= params.count) { return; }
  y[id.x] = chains(T(f32(id.x) * 1e-6), T(x[0]), T(x[1]), params.rounds);
}
