"""How images and containers differ, told by the command, the gate and report files."""
