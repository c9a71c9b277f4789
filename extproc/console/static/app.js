// The console
