"""What breaks: processes killed, servers stopped, lines cut; and a register workload under all of it."""
