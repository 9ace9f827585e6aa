// trace[step, i] = values[i], and the last invocation counts the step. One row is kept for each replay of a
// program, so a loop's losses stay on the device until it ends. A full trace overwrites its last row.
// Grid: one workgroup; limit: none (each invocation strides).
struct Params { width: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> trace: array<f32>;
@group(0) @binding(2) var<storage, read_write> step: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
  let row = min(step[0], params.rows - 1u);
  for (var i = 0u; i < params.width; i++) { trace[row * params.width + i] = values[i]; }
  step[0] = step[0] + 1u;
}
