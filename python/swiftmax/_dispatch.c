/* libdispatch holds all 4032 attributes that a queue can have, and a tenth of the extension would be to
 * relocate the pointer of each to its class. No queue is created here, so no attribute is ever looked at:
 * their class is at 0, which takes no relocation. setup.py makes libdispatch's own definition give way to
 * this one. */
__asm__(".globl __OS_dispatch_queue_attr_vtable\n"
        ".hidden __OS_dispatch_queue_attr_vtable\n"
        ".set __OS_dispatch_queue_attr_vtable, 0\n");
